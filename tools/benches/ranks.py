"""Ranks of all candidates for all rows, and zero-shot accuracy, beside float64 NumPy, on random embeddings.

    python -m tools.bench ranks
    python -m tools.bench ranks --rows 5000 --classes 1000

The plain form takes all scores in float64, rounds them to float32 and counts: the definition of
`best_ranks`, in the same blocks of 32 MB. Both forms run in turns in one process and must agree in every rank.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from bias_clip.evals.quality.zeroshot import accuracy, accuracy_of_ranks
from bias_clip.evals.ranking import best_ranks, row_blocks, score_ranks, similarity, unit
from tools.benches.step import take_turns

NOISE = 4.0  # of an embedding beside its partner's: some ranks are 0, and many are not


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `bench` reads."""
    parser.add_argument(
        "--rows", type=int, default=50_000, help="images, and texts, of a retrieval"
    )
    parser.add_argument("--classes", type=int, default=22_000, help="of a zero-shot classification")
    parser.add_argument("--width", type=int, default=768, help="of the embeddings")
    parser.add_argument("--rounds", type=int, default=2)


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns seconds of both forms for retrieval and for zero-shot, and their ratio.

    Raises:
      ValueError: the two forms differ.
    """
    found: dict[str, Any] = {"rows": args.rows, "classes": args.classes, "width": args.width}
    rng = np.random.default_rng(0)
    for what, candidates in (("retrieval", args.rows), ("zero-shot", args.classes)):
        own = np.arange(args.rows) % candidates
        z, c = make_pairs(own, candidates, args.width, rng)
        steps: dict[str, Callable[[], Any]]
        if what == "retrieval":
            rows = np.arange(args.rows)
            steps = {
                "ours": functools.partial(best_ranks, z, c, rows, own),
                "float64": functools.partial(plain_ranks, z, c, own),
            }
        else:
            steps = {
                "ours": functools.partial(accuracy, z, c, own),
                "float64": functools.partial(plain_accuracy, z, c, own),
            }
        seconds = compare(steps, args.rounds)
        found[what] = seconds | {"ratio": seconds["float64"] / seconds["ours"]}
        print(f"{what}: {args.rows:,} rows, {candidates:,} candidates, width {args.width}")
        print("  " + "".join(f"{name} {value:.2f}  " for name, value in found[what].items()))
    return found


def make_pairs(
    own: np.ndarray, candidates: int, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors: candidates at random, and rows near that of their index in `own`."""
    c = rng.standard_normal((candidates, width), np.float32)
    z = c[own] + NOISE * rng.standard_normal((len(own), width), np.float32)
    return unit(z), unit(c)


def plain_ranks(z: np.ndarray, candidates: np.ndarray, own: np.ndarray) -> np.ndarray:
    """`best_ranks` by its definition: every score in float64."""
    wide = candidates.astype(np.float64)
    ranks = np.empty(len(z), np.int64)
    for block in row_blocks(len(z), len(candidates)):
        scores = similarity(z[block], wide)
        ranks[block] = score_ranks(scores, np.arange(len(scores)), own[block])
    return ranks


def plain_accuracy(z: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> Any:
    """`accuracy` from `plain_ranks`."""
    return accuracy_of_ranks(plain_ranks(z, classes, labels), labels, num_classes=len(classes))


def compare(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each in the fastest of the rounds: in the first, ours also compiles.

    Raises:
      ValueError: the results differ.
    """
    results: dict[str, list[Any]] = {name: [] for name in steps}

    def keeping(name: str) -> None:
        results[name] = [steps[name]()]

    kept: dict[str, Callable[[], Any]] = {name: functools.partial(keeping, name) for name in steps}
    times = take_turns(kept, rounds, warm_up=0)
    ours, plain = (results[name][0] for name in ("ours", "float64"))
    if not np.array_equal(ours, plain):
        raise ValueError("our ranks differ from those of float64 scores; expected equal ones.")
    return {name: min(seconds) for name, seconds in times.items()}
