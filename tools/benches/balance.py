"""M4 solved on counted rows, against a QP solver on rows, the paper's stream of updates, and raking.

Rows are random: two attributes (60 and 25 %), each unknown for two of three rows, and 18 labels of
0.2 to 20 %, each more frequent in one group by up to a factor of two. The methods at each size:

  exact     counted and solved (`count`, `solve`), both timed
  clarabel  the same quadratic program on the rows, by Clarabel through CVXPY, at most --limit seconds;
            the time of CVXPY to state it is not included
  stream    the paper's updates, 25 passes in batches of 1,024; compilation is not timed
  raking    margins fitted in turn until every moment is below a millionth (iterative proportional
            fitting), without tolerances and without a largest weight

Columns: rms difference to the exact weights, objective relative to the exact one, the largest excess over
a tolerance, the largest weight, the effective share of the rows. After that `--most` rows are solved exactly.
Last, for a billion rows: `--shards` tables of a million rows each, drawn as counts, are merged and solved, and
must equal the table of their sum. Needs `pip install 'bias_clip[test]'`.
"""

import argparse
import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int8

from bias_clip.balancing import (
    Batch,
    CountTable,
    count,
    effective_sample_size,
    fit_stream,
    lookup,
    make_problem,
    merge,
    solve,
    stream_weights,
    tolerances,
)

LABELS = 18
PROBLEM = make_problem(
    {"man": 0.5, "dark": 0.3}, [f"label{i}" for i in range(LABELS)], eta=0.8, eps_association=0.02
)
BATCH, PASSES = 1024, 25
SHARD = 1_000_000


class Rows(NamedTuple):
    """Annotations: 1, 0, or -1 for unknown."""

    attributes: Int8[np.ndarray, "n 2"]
    labels: Int8[np.ndarray, "n c"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `bench` reads."""
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of Clarabel, each size")
    parser.add_argument("--most", type=int, default=10_000_000, help="rows solved exactly alone")
    parser.add_argument("--shards", type=int, default=1000, help="of a million rows; 0: none")
    parser.add_argument("--seed", type=int, default=0)


def bench(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints and returns one row per size and method."""
    print(f"{'rows':>13}  {'method':<9}{'seconds':>10}{'x exact':>9}{'rms':>10}{'objective':>11}"
          f"{'excess':>10}{'largest':>9}{'ESS':>7}")  # fmt: skip
    found: list[dict[str, Any]] = []
    for n in args.rows:
        rows = draw(n, args.seed)
        exact = by_counts(rows)
        base = _show(found, n, "exact", rows, *exact, exact)
        qp = partial(by_qp, limit=args.limit)
        for name, method in (("clarabel", qp), ("stream", by_stream), ("raking", by_raking)):
            _show(found, n, name, rows, *method(rows), exact, base)
    rows = draw(args.most, args.seed)
    start = time.perf_counter()
    table = count(*rows)
    counted = time.perf_counter() - start
    start = time.perf_counter()
    solution = solve(table, PROBLEM, min_retained=0.0)
    solved = time.perf_counter() - start
    print(f"{args.most:>13,}  counted in {counted:.2f} s to {len(table.counts):,} distinct rows, "
          f"solved in {solved:.2f} s, gap {solution.gap:.0e}")  # fmt: skip
    found.append({"rows": args.most, "counted": counted, "solved": solved, "gap": solution.gap})
    return [*found, shards(table, args.shards, args.seed)] if args.shards else found


def draw(n: int, seed: int) -> Rows:
    """Rows whose labels are associated with the attributes, and independent given them."""
    random = np.random.default_rng(seed)
    shares = np.geomspace(0.2, 0.002, LABELS)
    pull = random.uniform(-0.7, 0.7, (2, LABELS))  # of log odds, by group
    attributes = (random.random((n, 2), np.float32) < [0.6, 0.25]).astype(np.int8)
    group = 2 * attributes[:, 0] + attributes[:, 1]
    signs = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    labels = np.empty((n, LABELS), np.int8)
    for r in range(LABELS):
        chance = (shares[r] * np.exp(signs @ pull[:, r] / 2)).astype(np.float32)
        labels[:, r] = random.random(n, np.float32) < chance[group]
    attributes[random.random((n, 2), np.float32) < 2 / 3] = -1
    return Rows(attributes, labels)


def by_counts(rows: Rows) -> tuple[float, Float[np.ndarray, " n"]]:
    """Seconds and weights of this project's way."""
    start = time.perf_counter()
    table = count(*rows)
    weights = solve(table, PROBLEM, min_retained=0.0).weights
    seconds = time.perf_counter() - start
    return seconds, weights[lookup(table, *rows)]


def by_qp(rows: Rows, *, limit: float) -> tuple[float, Float[np.ndarray, " n"] | None]:
    """Solves the program as its formula says, with a variable per row; None if it took too long."""
    try:
        import cvxpy as cp
    except ImportError as error:
        raise SystemExit("error: this needs `pip install 'bias_clip[test]'`.") from error
    moments, eps = _moments(rows), _eps(rows)
    n = len(rows.labels)
    q = cp.Variable(n)
    excess = cp.sum(cp.pos(cp.abs(moments.T @ q / n) - eps.ravel()))
    distance = cp.sum_squares(q - PROBLEM.eta) / (2 * n)
    within = [cp.sum(q) / n == PROBLEM.eta, q >= 0, q <= PROBLEM.cap]
    program = cp.Problem(cp.Minimize(distance + PROBLEM.penalty * excess), within)
    start = time.perf_counter()
    try:
        program.solve(solver=cp.CLARABEL, time_limit=limit)
    except cp.SolverError as error:
        if "time" not in str(error).lower() and time.perf_counter() - start < limit:
            raise
    if program.status != cp.OPTIMAL:
        return time.perf_counter() - start, None
    return float(program.solver_stats.solve_time or 0.0), np.asarray(q.value)


def by_stream(rows: Rows) -> tuple[float, Float[np.ndarray, " n"]]:
    """The paper's updates, from 0."""
    import jax
    import jax.numpy as jnp

    n = len(rows.labels)
    order = np.random.default_rng(0).permutation(-(-n // BATCH) * BATCH)
    size = min(BATCH, n)
    order = order[: n // size * size] % n
    ones = np.ones(len(order))
    parts = (rows.attributes[order], rows.labels[order], ones, ones)
    batches = Batch(*(jnp.asarray(x.reshape(-1, size, *x.shape[1:])) for x in parts))
    eps = jnp.asarray(_eps(rows))
    jitted = jax.jit(partial(fit_stream, problem=PROBLEM, eps=eps, passes=PASSES))
    fit = jitted.lower(batches).compile()
    start = time.perf_counter()
    state = jax.block_until_ready(fit(batches))
    seconds = time.perf_counter() - start
    whole = Batch(*map(jnp.asarray, (*rows, np.ones(n), np.ones(n))))
    return seconds, np.asarray(stream_weights(state, whole, PROBLEM), np.float64)


def by_raking(rows: Rows) -> tuple[float, Float[np.ndarray, " n"]]:
    """Scales the rows of each label inside and outside a group until all shares meet the targets."""
    columns = [*(rows.labels.T == 1), np.ones(len(rows.labels), bool)]
    pairs = [
        (np.flatnonzero(y & (s == 1)), np.flatnonzero(y & (s == 0)), target)
        for s, target in zip(rows.attributes.T, PROBLEM.targets, strict=True)
        for y in columns
    ]
    pairs = [pair for pair in pairs if len(pair[0]) and len(pair[1])]
    start = time.perf_counter()
    w = np.ones(len(rows.labels))
    for _ in range(1000):
        worst = 0.0
        for inside, outside, target in pairs:
            a, b = w[inside].sum(), w[outside].sum()
            worst = max(worst, abs(a - target * (a + b)) / len(w))
            w[inside] *= target * (a + b) / a
            w[outside] *= (1 - target) * (a + b) / b
        if worst < 1e-6:
            break
    return time.perf_counter() - start, w * PROBLEM.eta / w.mean()


def shards(table: CountTable, number: int, seed: int) -> dict[str, Any]:
    """Draws tables of a million rows from the shares of `table`, merges them, solves; prints."""
    random = np.random.default_rng(seed)
    share, total = table.counts / table.counts.sum(), np.zeros_like(table.counts)
    merged, seconds, largest = None, 0.0, 0
    for first in range(0, number, 50):
        parts = []
        for _ in range(min(50, number - first)):
            counts = random.multinomial(SHARD, share)
            total += counts
            seen = counts > 0
            parts.append(_rows_of(table, seen, counts))
        largest = max(largest, *(sum(x.nbytes for x in part) for part in parts))
        start = time.perf_counter()
        merged = merge(parts if merged is None else [merged, *parts])
        seconds += time.perf_counter() - start
    assert merged is not None
    seen = total > 0
    whole = _rows_of(table, seen, total)
    same = all(np.array_equal(a, b) for a, b in zip(merged, whole, strict=True))
    if not same:
        raise ArithmeticError("the merged table is not the table of the sum.")
    start = time.perf_counter()
    solution = solve(merged, PROBLEM, min_retained=0.0)
    solved = time.perf_counter() - start
    rows = int(merged.counts.sum())
    print(
        f"{rows:>13,}  {number:,} tables of at most {largest / 2**20:.1f} MiB merged in "
        f"{seconds:.1f} s to {len(merged.counts):,} rows, bit for bit the table of the sum; solved in "
        f"{solved:.2f} s, gap {solution.gap:.0e}"
    )
    return {"rows": rows, "merged": seconds, "solved": solved, "gap": solution.gap}


def _show(
    found: list[dict[str, Any]],
    n: int,
    method: str,
    rows: Rows,
    seconds: float,
    weights: np.ndarray | None,
    exact: tuple[float, np.ndarray],
    base: dict[str, Any] | None = None,
) -> dict[str, Any]:
    if weights is None:
        record = {"rows": n, "method": method, "seconds": seconds, "ratio": seconds / exact[0]}
        print(f"{n:>13,}  {method:<9}{seconds:>10.3f}{record['ratio']:>9.1f}  no solution by then")
        found.append(record)
        return record
    objective, excess = _judge(rows, weights)
    record = {
        "rows": n,
        "method": method,
        "seconds": seconds,
        "ratio": seconds / exact[0],
        "rms": float(np.sqrt(np.mean((weights - exact[1]) ** 2))),
        "objective": objective,
        "excess": excess,
        "largest": float(weights.max()),
        "ess": effective_sample_size(weights) / n,
    }
    of = 0.0 if base is None else objective / base["objective"] - 1
    print(f"{n:>13,}  {method:<9}{seconds:>10.3f}{record['ratio']:>9.1f}{record['rms']:>10.1e}"
          f"{of:>+11.0e}{excess:>10.1e}{record['largest']:>9.2f}{record['ess']:>7.1%}")  # fmt: skip
    found.append(record)
    return record


def _judge(rows: Rows, weights: np.ndarray) -> tuple[float, float]:
    """The objective of `make_problem`, and the largest excess over a tolerance."""
    moments = np.abs(_moments(rows).T @ weights / len(weights))
    excess = np.maximum(0, moments - _eps(rows).ravel())
    distance = np.mean((weights - PROBLEM.eta) ** 2) / 2
    return float(distance + PROBLEM.penalty * excess.sum()), float(excess.max())


def _moments(rows: Rows) -> Any:
    """s - target times a label, or one, for each row, [n, 2 * (labels + 1)], sparse."""
    import scipy.sparse

    known = rows.attributes >= 0
    z = np.where(known, rows.attributes - np.array(PROBLEM.targets), 0.0)
    y = np.concatenate([rows.labels, np.ones((len(z), 1), np.int8)], axis=1)
    return scipy.sparse.hstack([scipy.sparse.csr_matrix(z[:, [k]] * y) for k in range(2)]).tocsr()


def _rows_of(table: CountTable, seen: np.ndarray, counts: np.ndarray) -> CountTable:
    """Selected rows of a table, with other counts."""
    return CountTable(table.attributes[seen], table.labels[seen], table.utility[seen], counts[seen])


def _eps(rows: Rows) -> Float[np.ndarray, "k c1"]:
    return tolerances(PROBLEM, count(*rows), float(PROBLEM.eta))
