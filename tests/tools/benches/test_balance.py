"""The benchmark measures what it says: ways to the same weights, and tables that add up."""

import argparse

import numpy as np
import pytest

from bias_clip.balancing import count, merge
from tools.benches import balance


@pytest.fixture(scope="module")
def found():
    parser = argparse.ArgumentParser()
    balance.add_arguments(parser)
    words = ["--rows", "400", "--most", "3000", "--shards", "3"]
    return balance.bench(parser.parse_args(words))


def test_the_quadratic_programme_has_the_same_weights(found):
    exact, clarabel = (
        next(row for row in found if row.get("method") == name) for name in ("exact", "clarabel")
    )
    assert clarabel["rms"] < 1e-3
    assert clarabel["objective"] == pytest.approx(exact["objective"], rel=1e-5)


def test_no_method_has_a_lower_objective_than_the_exact_one(found):
    rows = [row for row in found if "objective" in row]
    raking = next(row for row in rows if row["method"] == "raking")
    assert [row["method"] for row in rows] == ["exact", "clarabel", "stream", "raking"]
    assert all(row["objective"] >= rows[0]["objective"] * (1 - 1e-6) for row in rows)
    assert raking["largest"] > 1 > raking["ess"]  # no upper bound


def test_a_billion_is_shards_that_add_up(found):
    assert found[-1]["rows"] == 3 * balance.SHARD
    assert found[-1]["gap"] < 1e-8


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_a_solver_that_is_too_slow_has_no_solution():
    rows = balance.draw(2000, seed=0)
    assert balance.by_qp(rows, limit=1e-3)[1] is None


def test_rows_go_with_their_attributes():
    rows = balance.draw(60_000, seed=0)
    known = rows.attributes >= 0
    assert known.mean() == pytest.approx(1 / 3, abs=0.01)
    gaps = [
        rows.labels[rows.attributes[:, 0] == 1].mean(0)
        - rows.labels[rows.attributes[:, 0] == 0].mean(0)
    ]
    assert np.abs(gaps).max() > 0.02
    parts = [count(*(x[i::2] for x in rows)) for i in (0, 1)]
    for a, b in zip(merge(parts), count(*rows), strict=True):
        np.testing.assert_array_equal(a, b)
