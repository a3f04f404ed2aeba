"""Rows of an epoch: as balanced as the weights where the table has cells, and fresh where asked for."""

import numpy as np
import pytest

from bias_clip.balancing import count, keep, keep_balanced, lookup, make_cells, make_problem
from bias_clip.balancing.balanced_draw import cells_to_json, epoch_seed
from bias_clip.data.stream.balanced import make_plan
from bias_clip.data.stream.exposure import count_exposure
from bias_clip.data.tables import write_table
from tests.data.tiny import Patches

COUNT, BATCH = 60, 8
IDS = [f"patch{i}" for i in range(COUNT)]
MAN, NURSE = (np.random.default_rng(s).integers(0, 2, (COUNT, 1)).astype(np.int8) for s in (0, 1))
TABLE = count(MAN, NURSE)
PLACE = lookup(TABLE, MAN, NURSE)
CELLS = make_cells(TABLE, make_problem({"man": 0.5}, ["nurse"]))
WEIGHTS = np.array([0.37, 0.5, 1.61, 1.0])[PLACE]


class Numbered(Patches):
    """The ids as an array, too."""

    @property
    def columns(self):
        return {"id": np.asarray(IDS)}


SOURCE = Numbered(COUNT)


def write(path, **manifest):
    """In another order than the source."""
    columns = {"id": np.asarray(IDS), "weight": WEIGHTS, "cell": PLACE.astype(np.int32)}
    columns = {name: values[::-1] for name, values in columns.items()}
    write_table(path, columns, {"kind": "weights", "cells": cells_to_json(CELLS), **manifest})
    return str(path)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write(tmp_path_factory.mktemp("table") / "weights.parquet")


def copies_of(plan):
    return np.bincount(plan.phases[0].source.rows, minlength=COUNT)


def test_a_table_with_cells_is_drawn_balanced_unless_a_coin_is_asked_for(table):
    by_cube = keep_balanced(2, IDS, WEIGHTS, PLACE, CELLS)
    by_coin = keep(2, IDS, WEIGHTS)
    assert (by_cube != by_coin).any()
    for draw, expected in ((None, by_cube), ("cube", by_cube), ("coin", by_coin)):
        plan = make_plan(SOURCE, table=table, use="thin", seed=2, draw=draw)
        np.testing.assert_array_equal(copies_of(plan), expected)


def test_a_table_without_cells_is_drawn_by_coins_as_before(tmp_path):
    path = tmp_path / "old.parquet"
    write_table(path, {"id": IDS, "weight": WEIGHTS}, {"kind": "weights"})
    plan = make_plan(SOURCE, table=str(path), use="thin")
    np.testing.assert_array_equal(copies_of(plan), keep(0, IDS, WEIGHTS))
    with pytest.raises(ValueError, match=r"old.parquet has no cells, which draw='cube' needs"):
        make_plan(SOURCE, table=str(path), use="thin", draw="cube")
    with pytest.raises(ValueError, match="has no cells"):
        make_plan(SOURCE, table=str(path), use="thin", fresh=True)


def fresh(table, **changes):
    return make_plan(
        SOURCE, **{"table": table, "use": "thin", "fresh": True, "run_seed": 5, **changes}
    )


LENGTH = int(np.ceil(WEIGHTS.sum()))


def test_each_epoch_has_a_draw_of_its_own(table):
    at = fresh(table).phases[0].order.at
    for epoch in range(4):
        rows = [at(epoch * LENGTH + i) for i in range(LENGTH)]
        seen = np.bincount(rows, minlength=COUNT)
        expected = keep_balanced(epoch_seed(0, epoch), IDS, WEIGHTS, PLACE, CELLS)
        assert (seen >= expected).all()
        assert (
            seen.sum() - expected.sum() == LENGTH - expected.sum() <= 1
        )  # an epoch of one row less


def test_positions_do_not_depend_on_what_was_asked_before(table):
    """Which is exact resume: forwards, backwards, and from the middle in another process."""
    positions = range(5 * LENGTH)
    forwards = [fresh(table).phases[0].order.at(p) for p in positions[:: LENGTH // 2]]
    one = fresh(table).phases[0].order.at
    backwards = [one(p) for p in reversed(positions[:: LENGTH // 2])]
    assert forwards == backwards[::-1]


def test_over_many_epochs_a_record_is_seen_as_it_weighs(table):
    plan, epochs = fresh(table), 60
    seen = count_exposure(SOURCE, plan, batch_size=LENGTH, seed=5, stop=epochs)
    assert seen.sum() == epochs * LENGTH
    fraction = WEIGHTS % 1
    error = np.sqrt(fraction * (1 - fraction) / epochs)
    assert (np.abs(seen / epochs - WEIGHTS) <= 4.5 * error + 5 / epochs).all()  # 5: filled places
    same = count_exposure(
        SOURCE, make_plan(SOURCE, table=table, use="thin"), batch_size=LENGTH, seed=5, stop=epochs
    )
    assert np.abs(same / epochs - WEIGHTS).max() > 0.3  # where the draw is the same in all epochs


def test_other_runs_have_another_order_of_the_same_draw(table):
    one, two = (fresh(table, run_seed=s).phases[0].order.at for s in (0, 1))
    rows = [[at(p) for p in range(LENGTH)] for at in (one, two)]
    assert rows[0] != rows[1]
    assert len(set(rows[0]) ^ set(rows[1])) <= 1


def test_a_stand_in_is_of_the_same_epoch(table):
    order = fresh(table).phases[0].order
    drawn = {order.at(p) for p in range(2 * LENGTH, 3 * LENGTH)}
    rng = np.random.default_rng(0)
    assert {order.another(2 * LENGTH + 3, rng) for _ in range(500)} == drawn


def test_fresh_is_part_of_the_identity_and_older_runs_have_none(table):
    assert fresh(table).identity["balance"]["fresh"]
    plan = make_plan(SOURCE, table=table, use="thin")
    assert set(plan.identity["balance"]) == {"use", "first", "switch", "sha256"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draw": "coin"}, "fresh=True with draw='coin', whose epochs differ in length"),
        ({"draw": "dice", "fresh": False}, r"draw='dice', expected one of \['cube', 'coin'\]"),
        ({"use": "weight"}, "draw and fresh are of use='thin'"),
    ],
)
def test_draws_that_do_not_go_together_are_refused(table, changes, message):
    with pytest.raises(ValueError, match=message):
        fresh(table, **changes)


def test_damaged_cells_are_refused_with_the_file(tmp_path):
    path = write(tmp_path / "w.parquet", cells={"targets": [0.5], "shape": [4, 2], "zlib": "!"})
    with pytest.raises(ValueError, match=r"w\.parquet: cells: "):
        make_plan(SOURCE, table=path, use="thin")
