"""Where records come from: one random-access interface over every format.

A source has `__len__` and `__getitem__(int) -> Record`, cheap, pure and safe to call from threads.
A broken record raises ValueError when it is read, which the pipeline counts and replaces; a broken
source raises ValueError when it is made.
"""

from collections.abc import Callable, Mapping
from typing import Any

from bias_clip.core.registry import call_by_name
from bias_clip.data.emoji import emoji_source
from bias_clip.data.emoji.cards import emoji_cards_source
from bias_clip.data.records import Record, Source, column
from bias_clip.data.sources.array_record import array_record_source
from bias_clip.data.sources.folder import folder_source
from bias_clip.data.sources.image_files import image_files_source
from bias_clip.data.sources.mixture import make_mixture
from bias_clip.data.sources.parquet import parquet_source
from bias_clip.data.sources.table import table_source
from bias_clip.data.sources.tfds import tfds_source
from bias_clip.data.sources.webdataset import webdataset_source

__all__ = ["SOURCES", "Record", "Source", "column", "make_source"]


def mixture_source(
    *,
    sources: Mapping[str, Mapping[str, Any]],
    rates: Mapping[str, float],
    records: int | None = None,
    seed: int = 0,
) -> Source:
    """Mixes several sources: of N records each gives the share that its rate says, up to rounding.

    Ids get the name of their source in front, and the attribute "mixture" is that name. A source that
    gives more records than it has repeats; the log says so. The mixture is one source, of which weights,
    cells and columns are made as of any other. Changed rates make another stream: a restart with them
    is refused.

    Args:
      sources: the arguments of `make_source`, by a name of yours.
      rates: positive numbers by the same names, of any sum.
      records: N. None: as many as no source needs to leave a record out; fewer make a seeded choice.
      seed: of that choice.

    Raises: ValueError for rates that do not fit the sources, an empty source, and what the sources
      raise.

        mixture_source(sources=dict(web=dict(name="parquet", path="web"),
                                    own=dict(name="folder", path="own")), rates=dict(web=3, own=1))
    """
    return make_mixture(make_source, sources=sources, rates=rates, records=records, seed=seed)


SOURCES: dict[str, Callable[..., Source]] = {
    "array_record": array_record_source,
    "emoji": emoji_source,
    "emoji_cards": emoji_cards_source,
    "folder": folder_source,
    "image_files": image_files_source,
    "mixture": mixture_source,
    "parquet": parquet_source,
    "table": table_source,
    "tfds": tfds_source,
    "webdataset": webdataset_source,
}


def make_source(*, name: str, **arguments: Any) -> Source:
    """Makes a source by name: one of `SOURCES`.

    Raises: ValueError for an unknown name or argument, listing the valid ones, and what the source
      itself raises.

        source = make_source(name="emoji", split="train")
    """
    return call_by_name("source", SOURCES, name, arguments)
