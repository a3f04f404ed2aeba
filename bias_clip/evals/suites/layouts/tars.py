"""The tar layout of CLIP_benchmark and DataComp: class names, templates and shards beside each other."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from bias_clip.data.records import Record, Source, column, read_many
from bias_clip.data.sources.webdataset import webdataset_source
from bias_clip.evals.suites.layouts.data import SuiteData, need, read_lines, read_text

TYPES = ("classification", "multilabel", "retrieval")
CLASSES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
FAIRNESS = ("age", "gender", "race", "race_binary")
DOLLAR_STREET = ("income_ds", "income_meta", "region")
GEODE = ("region", "country")
_READ = 256  # records whose .npy are read together


def read_tars(
    path: Path, *, split: str = "test", columns: tuple[str, ...] = (), cache: str | None = None
) -> SuiteData:
    """Reads classnames.txt, the templates, <split>/nshards.txt and <split>/<i>.tar.

    Lines of the two text files are "name", or "objective:name" as in FairFace and UTKFace.

    Args:
      path: the folder.
      split: folder of the shards.
      columns: of the .npy beside each image, for data sets with metadata; () takes a .npy for the
        labels of several classes, if `dataset_type.txt` says so.
      cache: see `webdataset_source`.

    Raises:
      ValueError: a file that is missing, shards that are missing, labels that do not fit the classes.
    """
    kind = _dataset_type(path)
    shards = _shards(path, split)
    if kind == "retrieval":
        return SuiteData(_CaptionLines(webdataset_source(path=shards, attributes=(), cache=cache)))
    classes = _objectives(need(path / CLASSES, "class names, one per line"))
    templates = _objectives(need(path / TEMPLATES, "templates with {c}, one per line"))
    templates = {
        key: tuple(t.replace("{c}", "{}") for t in lines) for key, lines in templates.items()
    }
    # Classes are numbers in a .cls member: these samples have no caption.
    source = webdataset_source(path=shards, captions=(), attributes=("cls", "npy"), cache=cache)
    codes: dict[str, Int[np.ndarray, " n"]] = {}
    labels = None
    if "cls" in getattr(source, "columns", ()):
        codes["label"] = np.asarray(column(source, "cls"), np.int64)
        _check_labels(codes["label"], len(next(iter(classes.values()))), path)
    if columns:
        table = _arrays(source, len(columns), path)
        codes |= {name: table[:, i] for i, name in enumerate(columns)}
    elif kind == "multilabel":
        labels = _arrays(source, len(next(iter(classes.values()))), path)
    return SuiteData(source, codes, {}, classes, templates, labels)


class _CaptionLines:
    """Records whose text holds a caption per line."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        lines = [line.strip() for text in record["captions"] for line in text.split("\n")]
        return {**record, "captions": tuple(line for line in lines if line)}


def _dataset_type(path: Path) -> str:
    """What dataset_type.txt says; without it the layout means classification."""
    file = need(path, "a folder in the tar layout") / "dataset_type.txt"
    kind = read_text(file, "a type").strip() if file.exists() else "classification"
    if kind not in TYPES:
        raise ValueError(f"{file} says {kind!r}; expected one of {list(TYPES)}.")
    return kind


def _shards(path: Path, split: str) -> list[str]:
    number = read_text(path / split / "nshards.txt", "the number of shards").strip()
    if not number.isdigit() or int(number) < 1:
        raise ValueError(f"{path / split / 'nshards.txt'} holds {number!r}; expected a number.")
    names = [path / split / f"{i}.tar" for i in range(int(number))]
    # nshards.txt counts the shards: a missing one would otherwise be a smaller test set.
    missing = [name.name for name in names if not name.is_file()]
    if missing:
        raise ValueError(
            f"{path / split} lacks {missing[0]} and {len(missing) - 1} more of the {number} shards "
            "that nshards.txt counts; download them."
        )
    return [str(name) for name in names]


def _objectives(path: Path) -> dict[str, tuple[str, ...]]:
    """Objective to its lines, in the order of the file; one objective "" if lines have none."""
    lines = read_lines(path, "a line per class or template")
    # Only if all lines are marked: a class name may hold a colon itself.
    marked = all(line.split(":")[0] in ("race", "gender", "age", "toxic") for line in lines)
    if not marked:
        return {"": tuple(lines)}
    found: dict[str, list[str]] = {}
    for line in lines:
        objective, _, rest = line.partition(":")
        found.setdefault(objective, []).append(rest)
    return {key: tuple(values) for key, values in found.items()}


def _arrays(source: Source, width: int, path: Path) -> Int[np.ndarray, "n c"]:
    """The .npy of each record, which `column` cannot hold."""
    rows: list[np.ndarray] = []
    for start in range(0, len(source), _READ):
        for record in read_many(source, range(start, min(start + _READ, len(source)))):
            rows.append(_array(record, width, path))
    return np.stack(rows)


def _array(record: Any, width: int, path: Path) -> np.ndarray:
    if isinstance(record, ValueError):
        raise record
    values = np.asarray(record.get("npy", np.zeros(0)))
    if values.shape != (width,):
        raise ValueError(
            f"{path}: the .npy of {record['id']} has shape {values.shape}; expected ({width},)."
        )
    # The cast below would cut a fraction silently.
    if not np.array_equal(values, np.floor(values)):
        raise ValueError(
            f"{path}: the .npy of {record['id']} holds {values}; expected whole codes."
        )
    return values.astype(np.int64)


def _check_labels(labels: np.ndarray, num_classes: int, path: Path) -> None:
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"{path}: labels go from {labels.min()} to {labels.max()}; expected 0 to "
            f"{num_classes - 1}, as {CLASSES} has {num_classes} lines."
        )
