"""Draws by weights: how often each row, and how biased the draw is, by the cube and by coins.

Ten problems: the README's, that of docs/m4.md, and eight random ones whose labels have 3 to 30 rows.
For each, --seeds draws of both kinds. Columns, in points of the largest association bias of a label
that is balanced:

  before, weighted   of the data, and with the weights
  row                what one row more or less can do
  bound              1.1 times the weighted one, and one row
  cube, coin         mean and largest over the seeds
  over               share of the draws above the bound
  p                  whether each cell gives one row more as often as its weight says: the smallest
                     p-value of an exact binomial test, times the number of cells; at most 1
  seconds            of one draw by the cube, without the ids

--save FOLDER keeps the draws by the cube as they are made: a bench that was stopped continues with the same
line, and `--seeds` up to those that are there prints at once. Empty the folder when the code has changed.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from bias_clip.balancing import (
    CountTable,
    Problem,
    allocate,
    association_bias,
    count,
    keep,
    make_cells,
    make_problem,
    solve,
)
from bias_clip.balancing.balanced_draw import cell_copies
from bias_clip.core.write import whole_file

RANDOM = ((300, 10, 1), (600, 20, 1), (1000, 40, 1), (2000, 100, 1), (500, 10, 2), (1000, 20, 2),
          (2000, 40, 2), (4000, 60, 3))  # fmt: skip
_SAVE_EVERY = 20


class Solved(NamedTuple):
    """A problem, and the weights of its cells."""

    name: str
    table: CountTable
    problem: Problem
    weights: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `bench` reads."""
    parser.add_argument("--seeds", type=int, default=1000, help="draws of each kind and problem")
    parser.add_argument("--problems", type=int, nargs="+", help="numbers of some, from 0; all")
    parser.add_argument(
        "--save", type=Path, help="folder for the draws, to continue a bench that was stopped"
    )


def bench(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints and returns a row per problem."""
    heads = (
        "before",
        "weighted",
        "row",
        "bound",
        "cube",
        "largest",
        "over",
        "coin",
        "largest",
        "over",
    )
    print(f"{'problem':<24}" + "".join(f"{head:>9}" for head in heads) + "        p  seconds")
    found = []
    for number in args.problems or range(2 + len(RANDOM)):
        path = args.save / f"cube{number}.npz" if args.save else None
        row = measure(make(number), args.seeds, path)
        points = "".join(f"{row[key]:>9.2f}" for key in list(row)[1:11])
        print(f"{row['problem']:<24}{points}{row['p']:>9.2g}{row['seconds']:>9.3f}", flush=True)
        found.append(row)
    return found


def make(number: int) -> Solved:
    """One of the ten problems, solved."""
    if number < 2:
        return solve_flags(*(_readme, _m4)[number]())
    rows, labels, groups = RANDOM[number - 2]
    return random_problem(rows, labels, groups, seed=number)


def random_problem(rows: int, labels: int, groups: int, *, seed: int) -> Solved:
    """Labels of 3 to 30 rows that go with the first attribute; those too rare on a side are free."""
    from bias_clip.curation.weights import release_rare

    rng = np.random.default_rng(seed)
    attributes = (rng.random((rows, groups)) < rng.uniform(0.35, 0.65, groups)).astype(np.int8)
    y = np.zeros((rows, labels), np.int8)
    for r in range(labels):
        pull = np.exp(rng.normal(0, 0.5) * attributes[:, 0])
        size = int(rng.integers(3, 31))
        y[rng.choice(rows, size, replace=False, p=pull / pull.sum()), r] = 1
    attributes[rng.random((rows, groups)) < 0.2] = -1
    table = count(attributes, y)
    names = [f"label{r}" for r in range(labels)]
    targets = {f"group{k}": 0.5 for k in range(groups)}
    problem = release_rare(make_problem(targets, names, eta="max"), table, 2)
    weights = solve(table, problem, min_retained=0.0).weights
    name = f"{rows} rows, {labels} x {groups}"
    return Solved(name, table, problem, np.clip(weights, 0, 1))


def solve_flags(name: str, annotate: list[str], balance: list[str]) -> Solved:
    """What the two tools make of their flags."""
    from bias_clip.cli import annotate as annotate_tool
    from bias_clip.cli.balance import make_parser
    from bias_clip.cli.shared.balance_options import read_problem, solve_problem
    from bias_clip.curation import weights

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.parquet"
        annotate_tool.main([*annotate, "--out", str(path)])
        words = ["--annotations", str(path), "--out", str(path.with_name("w.parquet"))]
        args = make_parser().parse_args([*words, *balance])
        problem = read_problem(args)
        counted = weights.count_annotations(path, problem)
        problem = weights.release_rare(problem, counted.table, args.min_per_side)
        solution = solve_problem(counted, problem, args.min_retained)
    return Solved(name, counted.table, problem, np.clip(solution.weights, 0, problem.cap))


def measure(solved: Solved, seeds: int, path: Path | None = None) -> dict[str, Any]:
    """A row of the table, in points; `path` keeps the draws."""
    table, weights = solved.table, solved.weights
    mass = weights * table.counts
    place = np.repeat(np.arange(len(weights)), table.counts)
    ids = np.arange(len(place))
    cube, seconds = _cube_draws(solved, seeds, path)
    coins = [np.bincount(place, keep(s, ids, weights[place]), len(weights)) for s in range(seeds)]
    before, weighted = largest(solved, table.counts), largest(solved, mass)
    row = _one_row(solved, mass)
    bound = 1.1 * weighted + row
    by_cube, by_coin = (np.array([largest(solved, c) for c in draws]) for draws in (cube, coins))
    points = {"before": before, "weighted": weighted, "row": row, "bound": bound}
    points |= {"cube": by_cube.mean(), "cube_largest": by_cube.max()}
    points |= {"cube_over": (by_cube > bound + 1e-12).mean()}
    points |= {"coin": by_coin.mean(), "coin_largest": by_coin.max()}
    points |= {"coin_over": (by_coin > bound + 1e-12).mean()}
    found = {key: 100 * float(value) for key, value in points.items()}
    return {"problem": solved.name, **found, "p": agreement(cube, mass), "seconds": seconds}


def agreement(draws: np.ndarray, mass: np.ndarray) -> float:
    """Smallest p-value of how often a cell gives one row more than its whole ones, times the cells; at most 1."""
    chance = mass % 1
    # A standard error would not do: a cell of chance 1e-5 that is drawn once in 1,000 is ten of them off.
    cells = np.flatnonzero((chance > 1e-6) & (chance < 1 - 1e-6))
    more = (draws[:, cells] - np.floor(mass[cells])).round().astype(int)
    if not np.isin(more, (0, 1)).all():
        return 0.0  # more than one row off
    values = [
        stats.binomtest(k, len(draws), chance[i]).pvalue
        for i, k in zip(cells, more.sum(0), strict=True)
    ]
    return float(min(1.0, len(cells) * min(values, default=1.0)))


def _cube_draws(solved: Solved, seeds: int, path: Path | None) -> tuple[np.ndarray, float]:
    """Copies of each cell, a row per seed, and the seconds of a draw; continues from `path`."""
    table, weights = solved.table, solved.weights
    cells = make_cells(table, solved.problem)
    drawn, seconds = _saved(path, weights)
    for seed in range(len(drawn), seeds):
        start = time.perf_counter()
        chosen = allocate(seed, table.counts, weights, cells)
        drawn.append(cell_copies(table.counts, weights, chosen)[1])
        seconds.append(time.perf_counter() - start)
        if path and (len(drawn) % _SAVE_EVERY == 0 or len(drawn) == seeds):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial, partial.open("wb") as file:
                np.savez(file, cube=np.array(drawn), seconds=np.array(seconds), weights=weights)
    return np.array(drawn[:seeds]), float(np.mean(seconds[:seeds]))


def _saved(path: Path | None, weights: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
    if path is None or not path.is_file():
        return [], []
    with np.load(path) as saved:
        if not np.array_equal(saved["weights"], weights):
            raise ValueError(f"{path} has draws by other weights: give another folder to --save.")
        return list(saved["cube"]), list(saved["seconds"])


def largest(solved: Solved, mass: np.ndarray) -> float:
    """Largest association bias of a label that is balanced."""
    held = np.isfinite(solved.problem.eps_association) & (solved.table.labels == 1).any(0)
    labels = solved.table.labels[:, held]
    return float(
        np.nanmax(np.abs(association_bias(solved.table.attributes, labels, mass * 1.0).gap))
    )


def _one_row(solved: Solved, mass: np.ndarray) -> float:
    """One row of the smaller side of an attribute."""
    return float(1 / min((mass @ (solved.table.attributes == side)).min() for side in (0, 1)))


def _readme() -> tuple[str, list[str], list[str]]:
    source = ["--source", "emoji", "split=train", "unit=entry", "variant=biased"]
    gender = ["--column", "man=gender", "yes=man", "no=woman", "unknown=*"]
    return "README", [*source, *gender], ["--min-per-side", "5", "--eta", "max"]


def _m4() -> tuple[str, list[str], list[str]]:
    from tools.experiments.m4_ablation import BALANCED, annotate_flags

    return "docs/m4.md", annotate_flags(), [*BALANCED, "--no-proxies"]
