"""Names images by the nearest training images in pixels: a baseline that a model must beat.

python -m tools.experiments.pixel_baseline --config=configs/emoji.py

For each zero-shot evaluator of the config it prints the share of images whose own name is that of the nearest
training image (top1), or among the five nearest names (top5). Distances are Euclidean, between the pixels that
the evaluator would pass to the model. A name without a training image cannot be found in this way.
"""

import sys
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from bias_clip.cli.shared.flags import Parser
from bias_clip.data.image import make_image_fn
from bias_clip.data.sources import Source, column, make_source
from bias_clip.evals.ranking import row_blocks
from bias_clip.evals.results import first_image
from bias_clip.train.config_io import load_config


def main() -> None:
    """Prints a line per evaluator."""
    args = make_parser().parse_args()
    try:
        print_baseline(args.config)
    except ValueError as error:
        sys.exit(f"error: {error}")


def make_parser() -> Parser:
    """Returns the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/emoji.py"))
    return parser


def print_baseline(path: Path) -> None:
    """Prints top-1 and top-5 for each zero-shot evaluator of a config."""
    config = load_config(path)
    train_source = make_source(**{**config.data.source.to_dict(), "unit": "image"})
    train = pixels(train_source, config.evaluation.image)
    print(f"{len(train):,} training images of {train.shape[1]:,} values")
    for name, evaluator in config.evals.to_dict().items():
        if evaluator["type"] != "zeroshot":
            continue
        source = make_source(**evaluator["source"])
        ranks = nearest_ranks(
            pixels(source, config.evaluation.image),
            train,
            np.asarray(column(source, evaluator["label"])),
            np.asarray(column(train_source, evaluator["label"])),
        )
        top1, top5 = np.mean(ranks < 1), np.mean(ranks < 5)
        print(f"{name:<10} {len(source):>6,} images  top1 {top1:6.1%}  top5 {top5:6.1%}")


def pixels(source: Source, ops: str) -> Float[np.ndarray, "n d"]:
    """Every image of a source as one row of values."""
    image_fn = make_image_fn(ops)
    random = np.random.default_rng(0)  # evaluation uses no random draws
    return np.stack([image_fn(first_image(source[i]), random).ravel() for i in range(len(source))])


def nearest_ranks(
    queries: Float[np.ndarray, "n d"],
    train: Float[np.ndarray, "m d"],
    names: Shaped[np.ndarray, " n"],
    train_names: Shaped[np.ndarray, " m"],
) -> Int[np.ndarray, " n"]:
    """The rank of each query's name when names are sorted by distance of their nearest image.

    Returns:
      0 for the nearest; the number of names for a name without a training image.
    """
    order = np.argsort(train_names, kind="stable")
    known, first = np.unique(train_names[order], return_index=True)
    train = train[order]
    square = np.sum(np.square(train, dtype=np.float64), axis=1)
    own = np.searchsorted(known, names)
    found = known[np.minimum(own, len(known) - 1)] == names
    ranks = np.full(len(queries), len(known))
    for block in row_blocks(len(queries), len(train)):
        # The square of the query is left out: it does not change the order.
        distance = square - 2.0 * (queries[block] @ train.T)
        by_name = np.minimum.reduceat(distance, first, axis=1)
        mine = np.take_along_axis(by_name, np.minimum(own[block], len(known) - 1)[:, None], axis=1)
        ranks[block] = np.sum(by_name < mine, axis=1)
    return np.where(found, ranks, len(known))


if __name__ == "__main__":
    main()
