"""The benchmark of draws says what it measures, and tells a draw that keeps the balance from coins."""

import argparse

import numpy as np
import pytest

from tools.benches import draws


def test_the_cube_is_within_its_bound_and_coins_are_not(capsys):
    parser = argparse.ArgumentParser()
    draws.add_arguments(parser)
    [row] = draws.bench(parser.parse_args(["--seeds", "12", "--problems", "2"]))
    assert row["cube_over"] == 0 < row["coin_over"]
    assert row["weighted"] < row["cube"] < row["coin"]
    assert row["sigma"] < 5
    assert "300 rows, 10 x 1" in capsys.readouterr().out


def test_rows_of_two_attributes_stay_within_the_bound():
    """A row counts for twice as many constraints; without the choice among outcomes a tenth is above."""
    row = draws.measure(draws.random_problem(500, 10, 2, seed=6), 60)
    assert row["cube_over"] < 2  # percent: one draw of 60; of 1,000 it is one, too
    assert row["sigma"] < 5


def test_a_draw_that_takes_too_few_is_seen(monkeypatch):
    solved = draws.random_problem(300, 10, 1, seed=2)
    right = draws.allocate
    monkeypatch.setattr(
        draws, "allocate", lambda s, n, w, cells: right(s, n, np.where(w < 1, 0.8 * w, w), cells)
    )
    assert draws.measure(solved, 40)["sigma"] > 6


def test_one_row_is_the_most_that_a_gap_can_move_by_it():
    solved = draws.random_problem(300, 10, 1, seed=2)
    counts = solved.table.counts
    row = draws._one_row(solved, counts.astype(float))
    man = solved.table.attributes[:, 0]
    assert row == pytest.approx(1 / min(counts[man == s].sum() for s in (0, 1)))
