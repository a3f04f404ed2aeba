"""Reads and checks the files of a workdir, and says in words what is missing."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from bias_clip.core.formatting import is_number
from bias_clip.core.json_object import parse_object, read_object
from bias_clip.core.storage import absolute, run_folder
from bias_clip.evals.headlines import by_importance
from bias_clip.evals.results import EvalResult
from bias_clip.report.plots import Curve

_ADVICE = "repair or remove it"


class Run(NamedTuple):
    """The files of a run.

    Attributes:
      name: name of the folder.
      config: content of config.json.
      info: content of run.json.
      rows: content of metrics.jsonl, one record per step, by increasing step.
      evals: contents of evals/<name>.json by name, the most important first, see `by_importance`.
      missing: one sentence for the reader per missing file or number.
      start: content of start.json, the checkpoint whose parameters it began with; empty if drawn.
    """

    name: str
    config: dict
    info: dict
    rows: list[dict]
    evals: dict[str, dict]
    missing: list[str]
    start: Mapping = MappingProxyType({})


def read_run(workdir: str | Path) -> Run:
    """Reads config.json, run.json, metrics.jsonl and evals/*.json; each of them may be missing.

    Raises:
      ValueError: all are missing, or one is malformed (the message names file and line).
    """
    folder = run_folder(workdir)
    names = ("config.json", "run.json", "metrics.jsonl")
    if not any((folder / name).is_file() for name in names):
        raise ValueError(
            f"{folder} is not the workdir of a run: it has none of {', '.join(names)}. "
            "Give the folder that was --workdir in training."
        )
    config, info = _read_object(folder / "config.json"), _read_object(folder / "run.json")
    rows, missing = read_metrics(folder / "metrics.jsonl")
    evals = read_evals(folder)
    if not config:
        missing.append("config.json is missing: the configuration cannot be shown.")
    if not info:
        missing.append("run.json is missing: command, devices and versions are unknown.")
    if not evals:
        missing.append(
            "No evaluation has been written yet: there are no images, no retrieval and no bias "
            "to show. They come with the first evaluation of the run."
        )
    missing += _unfinished(info, rows)
    start = _read_object(folder / "start.json")
    return Run(absolute(folder).name, config, info, rows, evals, missing, start)


def read_evals(folder: Path) -> dict[str, dict]:
    """Reads evals/*.json of a run's folder: by name, the most important first, see `by_importance`.

    Raises:
      ValueError: one of them is malformed.
    """
    order = _read_object(folder / "config.json").get("evals", ())
    found = {}
    for path in (folder / "evals").glob("*.json"):
        record = found[path.stem] = _read_object(path)
        for key in ("metrics", "details"):
            if not isinstance(record.get(key), dict):
                raise ValueError(
                    f'{path}: got "{key}" = {record.get(key)!r}, expected an object. '
                    "Write it again with tools/evaluate.py."
                )
    place = {name: i for i, name in enumerate(order)}
    # The order of the config; evaluators that it does not name come last, by name.
    names = sorted(found, key=lambda name: (place.get(name, len(place)), name))
    for record in found.values():  # null is how JSON says that a metric has no number
        record["metrics"] = {k: np.nan if v is None else v for k, v in record["metrics"].items()}
    results = {name: EvalResult(found[name]["metrics"], found[name]["details"]) for name in names}
    return {name: found[name] for name in by_importance(results)}


def read_metrics(path: Path) -> tuple[list[dict], list[str]]:
    """Reads metrics.jsonl into one record per step; later values replace earlier ones.

    A killed process may leave a last line without a line feed. It is dropped and reported.

    Returns:
      The records by increasing step, and sentences on what is missing.

    Raises:
      ValueError: a line is not a JSON object with an integer "step"; the message names the line.
    """
    if not path.is_file():
        return [], ["metrics.jsonl is missing: the run stopped before it logged a step."]
    # A whole file ends with a line feed, so that the last part is empty.
    *lines, torn = path.read_bytes().split(b"\n")
    rows: dict[int, dict] = {}
    for number, line in enumerate(lines, 1):
        record = parse_object(line, f"{path}:{number}", advice=_ADVICE)
        step = record.get("step")
        # Python's bool is an integer: `true` is not a step.
        if not isinstance(step, int) or isinstance(step, bool):
            raise ValueError(
                f'{path}:{number}: got "step" = {step!r}, expected an integer. Remove the line.'
            )
        # A step that a restart made again is logged again: its later values count.
        rows[step] = rows.get(step, {}) | record
    missing = []
    if torn:
        missing.append("The last line of metrics.jsonl was cut off while it was written: left out.")
    if not rows:
        missing.append("metrics.jsonl has no complete line yet: there are no curves.")
    return [rows[step] for step in sorted(rows)], missing


def curve(rows: Iterable[Mapping], key: str) -> Curve:
    """The finite values of a key by step."""
    points = [(row["step"], row[key]) for row in rows if is_number(row.get(key))]
    x, y = zip(*points, strict=True) if points else ((), ())
    return Curve(np.array(x, np.float64), np.array(y, np.float64))


def _unfinished(info: Mapping, rows: list[dict]) -> list[str]:
    total, step = info.get("total_steps"), rows[-1]["step"] if rows else 0
    if not is_number(total) or step >= total:
        return []
    return [
        f"The run has not ended: this is step {step:,} of {total:,}. "
        "The same command continues it from its last checkpoint."
    ]


def _read_object(path: Path) -> dict:
    return read_object(path, advice=_ADVICE) if path.is_file() else {}
