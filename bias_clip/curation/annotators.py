"""The annotators that `annotate_source` takes: captions, columns, scores, a model's decision."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.curation.annotate_source import Annotator, Shard
from bias_clip.curation.captions import (
    Lists,
    Names,
    annotate_zero_shot,
    column_names,
    make_caption_annotator,
)
from bias_clip.curation.given import (
    SHOWN,
    annotate_categories,
    annotate_column,
    annotate_scores,
    as_text,
    read_scores,
)
from bias_clip.curation.word_lists import WordList
from bias_clip.data.records import Record, Source, column
from bias_clip.data.tables import KEY, file_sha256

KINDS = {"attribute": "attributes", "label": "labels", "proxy": "proxies"}


class Rows:
    """Some records of a source, as a source."""

    def __init__(self, source: Source, rows: Sequence[int]):
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        return self._source[self._rows[index]]


def by_captions(lists: Lists, *, both: str = "unknown") -> Annotator:
    """By word lists, see `annotate_captions`."""
    annotate = make_caption_annotator(lists, both=both)
    # The contents identify a list: a word that is added makes another table.
    hashes = {some.name: some.sha256 for kind in lists for some in kind}
    about = {"from": "captions", "lists": hashes, "both": both}
    return Annotator(column_names(lists, both=both), lambda shard: annotate(shard.captions), about)


def by_column(
    source: Source,
    name: str,
    attribute: str,
    *,
    yes: Sequence[str],
    no: Sequence[str],
    unknown: Sequence[str] | None = (),
    kind: str = "attribute",
) -> Annotator:
    """By a column of the source, see `annotate_column`; `kind` is attribute, label or proxy.

    Raises: ValueError for a value that no record of a source with `columns` has.
    """
    _check_values(source, attribute, [*yes, *no, *(unknown or ())])
    values: dict[str, Any] = {"yes": yes, "no": no, "unknown": unknown}
    return Annotator(
        _names(kind, [name]),
        lambda shard: {name: annotate_column(_values(shard, attribute), **values)},
        {"from": "column", "name": name, "column": attribute, **values},
    )


def by_categories(
    source: Source, attribute: str, *, values: Sequence[str], kind: str = "label"
) -> Annotator:
    """By the values of a column of the source, each its own column, see `annotate_categories`.

    Raises: ValueError for a value that no record of a source with `columns` has.
    """
    _check_values(source, attribute, values)
    return Annotator(
        _names(kind, values),
        lambda shard: annotate_categories(_values(shard, attribute), values),
        {"from": "categories", "column": attribute, "values": list(values)},
    )


def by_scores(
    path: str | Path,
    columns: Mapping[str, str],
    *,
    threshold: float,
    band: float = 0.0,
    key: str = KEY,
    missing: str = "error",
    kind: str = "attribute",
) -> Annotator:
    """By an image annotator's scores in a Parquet file, see `annotate_scores`.

    Args:
      columns: for each name that is made, the column of its scores.
    """
    # Read once, when the annotator is made; a wrong file fails before the first shard.
    table = read_scores(path, list(columns.values()), key=key)
    rule: dict[str, Any] = {"threshold": threshold, "band": band, "missing": missing}

    def annotate(shard: Shard) -> dict[str, np.ndarray]:
        return {n: annotate_scores(table, shard.ids, c, **rule) for n, c in columns.items()}

    about = {"from": "scores", "columns": dict(columns), **rule, "sha256": file_sha256(path)}
    return Annotator(_names(kind, list(columns)), annotate, about)


def by_zero_shot(
    source: Source,
    prompts: WordList,
    *,
    embed_images: Callable[[Source], np.ndarray],
    embed_texts: Callable[[Sequence[str]], np.ndarray],
    margin: float = 0.0,
    kind: str = "attribute",
    about: Mapping[str, Any],
) -> Annotator:
    """By what a model sees in the images, see `annotate_zero_shot`.

    Args:
      source: the annotated source.
      prompts: names and their prompts; the ignored ones describe no person.
      embed_images, embed_texts: functions that return unit-norm embeddings [n, d].
      about: entry of the manifest about the model.
    """
    # The ignored prompts get the name "", which `annotate_zero_shot` takes as no person.
    spoken = {**prompts.terms, **({"": prompts.ignore} if prompts.ignore else {})}
    names = [name for name, texts in spoken.items() for _ in texts]
    # Prompts are the same for all shards: embedded once.
    zprompts = embed_texts([text for texts in spoken.values() for text in texts])

    def annotate(shard: Shard) -> dict[str, np.ndarray]:
        zimg = embed_images(Rows(source, shard.rows))
        return annotate_zero_shot(zimg, zprompts, names, margin=margin)

    said = {"from": "zero-shot", "prompts": prompts.sha256, "margin": margin, **about}
    return Annotator(_names(kind, list(prompts.terms)), annotate, said)


def _names(kind: str, names: Sequence[str]) -> Names:
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, expected one of {list(KINDS)}.")
    return Names(**{KINDS[kind]: tuple(names)})


def _check_values(source: Source, name: str, values: Sequence[str]) -> None:
    """Raises before the first shard for misspelt values, if the source has columns."""
    if getattr(source, "columns", None) is None:
        return
    known = np.unique(as_text(column(source, name))).tolist()
    # A misspelt value would silently annotate nobody.
    unknown = [value for value in values if value not in known]
    if unknown:
        raise ValueError(f"no record has {name} {unknown}; the first are {known[:SHOWN]}.")


def _values(shard: Shard, column: str) -> np.ndarray:
    lacks = [i for i, given in enumerate(shard.attributes) if column not in given]
    if lacks:
        raise ValueError(
            f"record {shard.ids[lacks[0]]!r} has no attribute {column!r}, it has "
            f"{sorted(shard.attributes[lacks[0]])}."
        )
    # Python values: the dtype of an array, and so the text of a value, would depend on the shard.
    values = np.empty(len(shard.attributes), object)
    values[:] = [given[column] for given in shard.attributes]
    return values
