"""Where records come from: one interface of random access to every format.

A source has `__len__` and `__getitem__(int) -> Record`, cheap, pure and safe to call from threads.
A broken record raises ValueError when it is read; the pipeline counts and replaces it. A broken source
raises ValueError when it is made.
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
    """Mixes several sources: each gives the share of N records that its rate says, up to rounding.

    Ids start with the name of their source, which is also the attribute "mixture". If a source must
    give more records than it has, it repeats, and the log says so. The mixture is one source: weights,
    cells and columns are made for it as for any other. Other rates make another stream, so a restart
    with other rates is an error.

    Args:
      sources: the arguments of `make_source`, by names of your choice.
      rates: positive numbers by the same names, of any sum.
      records: N. None: so many that every source gives all its records. With fewer, a seeded choice.
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
