"""The benchmark of draws says what it measures, and tells a draw that keeps the balance from coins."""

import argparse

import numpy as np
import pytest

from bias_clip.balancing import landing, make_cells
from tools.benches import draws


def test_the_cube_is_within_its_bound_and_coins_are_not(capsys):
    parser = argparse.ArgumentParser()
    draws.add_arguments(parser)
    [row] = draws.bench(parser.parse_args(["--seeds", "12", "--problems", "2"]))
    assert row["cube_over"] == 0 < row["coin_over"]
    assert row["weighted"] < row["cube"] < row["coin"]
    assert row["p"] > 0.001
    assert "300 rows, 10 x 1" in capsys.readouterr().out


def test_rows_of_two_attributes_stay_within_the_bound():
    """A row counts for twice as many constraints; without the choice among outcomes a tenth is above."""
    row = draws.measure(draws.random_problem(500, 10, 2, seed=6), 60)
    assert row["cube_over"] == 0
    assert row["p"] > 0.001


def test_three_attributes_leave_no_chance_of_a_draw_above_the_bound(monkeypatch):
    """Seed 0: with a flight to its end, or 40 units compared, a cell of chance 0.06 has no way within it.
    Seed 30: without an extra cost above it, a little chance above it is cheaper."""
    solved = draws.random_problem(4000, 60, 3, seed=9)
    spread, above = landing._spread, []

    def seen(chances, taken, base, effects, seed):
        outcomes, probability = spread(chances, taken, base, effects, seed)
        above.append(probability[(np.abs(base + outcomes @ effects) > 1).any(1)].sum())
        return outcomes, probability

    monkeypatch.setattr(landing, "_spread", seen)
    cells = make_cells(solved.table, solved.problem)
    for seed in (0, 30):
        draws.allocate(seed, solved.table.counts, solved.weights, cells)
    assert above == pytest.approx([0, 0], abs=1e-6)


def test_a_draw_that_takes_too_few_is_seen(monkeypatch):
    solved = draws.random_problem(300, 10, 1, seed=2)
    right = draws.allocate
    monkeypatch.setattr(
        draws, "allocate", lambda s, n, w, cells: right(s, n, np.where(w < 1, 0.8 * w, w), cells)
    )
    assert draws.measure(solved, 40)["p"] < 1e-6


def test_a_rare_cell_that_is_drawn_once_is_no_sign_of_wrong_chances():
    drawn = np.zeros((1000, 2))
    drawn[:500, 0], drawn[0, 1] = 1, 1
    assert draws.agreement(drawn, np.array([0.5, 1e-4])) == pytest.approx(0.19, abs=0.01)
    assert draws.agreement(drawn, np.array([0.5, 0.02])) < 1e-5
    assert draws.agreement(drawn + 3, np.array([3.5, 3.0])) == 1


def test_one_row_is_the_most_that_a_gap_can_move_by_it():
    solved = draws.random_problem(300, 10, 1, seed=2)
    counts = solved.table.counts
    row = draws._one_row(solved, counts.astype(float))
    man = solved.table.attributes[:, 0]
    assert row == pytest.approx(1 / min(counts[man == s].sum() for s in (0, 1)))
