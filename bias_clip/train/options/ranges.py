"""Are the numbers of a config in range? Asks the checks of the functions that receive them.

No range is written here. Each stands once, where the number is used, and is asked before any data is read.
"""

import ml_collections
import numpy as np

from bias_clip.core.registry import named
from bias_clip.data.image import make_image_fn
from bias_clip.data.stream.batch import attributes_of
from bias_clip.data.stream.examples import check_first_caption
from bias_clip.data.stream.pipeline import check_reading, check_seed
from bias_clip.models.vit import check_size
from bias_clip.train.guards import check_consecutive
from bias_clip.train.hosts.watchdog import check_seconds
from bias_clip.train.light import check_light
from bias_clip.train.objective import check_term
from bias_clip.train.optim import check_ema_decay
from bias_clip.train.workdir.checkpoint import check_keep


def check_ranges(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for a number out of range, and names its key.

    Args:
      config: its keys and types are right.
    """
    with named("config.seed"):
        check_seed(config.seed)
    with named("config.ema_decay"):
        if config.ema_decay is not None:
            check_ema_decay(config.ema_decay)
    with named("config.stall_seconds"):
        check_seconds(config.stall_seconds)
    with named("config.guards"):
        check_consecutive(None if config.guards is None else config.guards.max_consecutive)
    with named("config.checkpoint"):
        check_keep(config.checkpoint.keep)
    _check_data(config.data)
    if config.light is not None:
        with named("config.light"):
            given = {"size": None, "length": None, "patches": None, **config.light.to_dict()}
            del given["until"]
            check_light(config.model.to_dict(), **given)
    _check_terms(config)
    _check_images(config)


def _check_data(data: ml_collections.ConfigDict) -> None:
    with named("config.data"):
        check_reading(
            data.num_threads, data.num_workers, data.prefetch, max_bad_share=data.max_bad_share
        )
        check_first_caption(data.first_caption)


def _check_terms(config: ml_collections.ConfigDict) -> None:
    data = config.data
    columns = attributes_of(columns=data.columns, balance=data.balance, cells=data.cells)
    for name, arguments in config.objective.items():
        check_term(name, arguments, batch_size=config.batch_size, columns=columns)


def _check_images(config: ml_collections.ConfigDict) -> None:
    """The operations run, and end in the model's size, if they end in one size at all."""
    size = config.model.image.size
    with named("config.model.image.size"):
        check_size(size)
    # Two sizes, so that operations that keep the size of their input can be told from a resize; both
    # are large enough for every crop that a model of this size could ask for.
    side = min(2 * size, size + 512)
    inputs = [np.zeros((side + more, side + 2 * more, 3), np.uint8) for more in (1, 40)]
    for key, ops in (
        ("config.data.image", config.data.image),
        ("config.evaluation.image", config.evaluation.image),
    ):
        with named(key):
            image_fn = make_image_fn(ops)
            made = {image_fn(x, np.random.default_rng(0)).shape for x in inputs}
            if len(made) == 1 and (shape := made.pop()) != (size, size, 3):
                raise ValueError(
                    f"{ops!r} makes images of shape {shape}, but config.model.image.size is {size}; "
                    "set both to the same size."
                )
