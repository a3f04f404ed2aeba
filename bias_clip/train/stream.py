"""The training stream that a config describes: its source, its plan, and this host's batches."""

import jax
import ml_collections

from bias_clip.data.image import make_pixel_fn
from bias_clip.data.sources import Source
from bias_clip.data.stream import make_plan, make_train_iterator, plain_plan
from bias_clip.data.stream.cells import describe, make_cells_plan
from bias_clip.data.stream.pipeline import TrainIterator
from bias_clip.data.stream.plan import Plan
from bias_clip.data.text import make_text_fn
from bias_clip.train.display.terminal import say


def open_stream(
    config: ml_collections.ConfigDict, source: Source, *, switch: int | None
) -> TrainIterator:
    """Opens the stream of this host's batches; the caller closes it.

    Args:
      config: validated.
      source: of `config.data.source`.
      switch: the first step, counted from 0, of the second phase of balanced data, or None.

    Raises:
      ValueError: what `make_plan`, `make_cells_plan` and `make_train_iterator` raise.
    """
    data = config.data
    return make_train_iterator(
        source,
        image_fn=make_pixel_fn(data.image)[0],
        text_fn=make_text_fn(**data.text.to_dict()),
        batch_size=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=data.num_threads,
        num_workers=data.num_workers,
        prefetch=data.prefetch,
        max_bad_share=data.max_bad_share,
        first_caption=data.first_caption,
        columns=data.columns.to_dict(),
        plan=plan_of(config, source, switch),
    )


def plan_of(config: ml_collections.ConfigDict, source: Source, switch: int | None) -> Plan:
    """Which record stands at each position of a run; arguments and errors as of `open_stream`."""
    cells, balance = config.data.cells, config.data.balance
    if cells is not None:
        given = {"batch_size": config.batch_size, "seed": config.seed}
        plan, stats = make_cells_plan(source, **cells.to_dict(), **given)
        say(describe(stats, config.batch_size))
        return plan
    if balance is None:
        return plain_plan(source)
    return make_plan(source, **{**balance.to_dict(), "switch": switch}, run_seed=config.seed)
