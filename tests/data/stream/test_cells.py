"""Training on cells: what a batch holds, that a stop changes nothing, and that one cell does nothing."""

import itertools
import json

import jax
import numpy as np
import pytest

from bias_clip.data.stream.cells import describe, make_cells_plan, write_cells
from bias_clip.data.tables import read_table, write_table
from bias_clip.train.config import validate
from bias_clip.train.loop import train
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh
from bias_clip.train.workdir import checkpoint
from tests.data import streams
from tests.data.streams import assert_same
from tests.data.tiny import Patches
from tests.train.tiny import tiny_config, use_squares

COUNT, BATCH = 60, 8
IDS = [f"patch{i}" for i in range(COUNT)]
CLUSTERS = np.random.default_rng(0).choice([3, 0, 1], COUNT, p=[0.6, 0.3, 0.1])
SOURCE = Patches(COUNT)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """In another order than the source, and with rows of others."""
    path = tmp_path_factory.mktemp("table") / "cells.parquet"
    return write(path, np.append(CLUSTERS, 7)[::-1], [*IDS, "another"][::-1])


def write(path, clusters, ids=IDS, **manifest):
    columns = {"id": np.asarray(ids), "cluster": np.asarray(clusters)}
    write_table(path, columns, {"kind": "cells", **manifest})
    return str(path)


def plan_of(table, source=SOURCE, **arguments):
    arguments = {"batch_size": BATCH, "seed": 1, **arguments}
    return make_cells_plan(source, table=table, **arguments)


def open_stream(fns, plan, source=SOURCE, **arguments):
    return streams.open_stream(source, fns, plan=plan, **{"batch_size": BATCH, **arguments})


def batches(fns, plan, count, source=SOURCE, **arguments):
    return streams.batches(source, fns, count, plan=plan, **{"batch_size": BATCH, **arguments})


# What a batch holds.


@pytest.mark.parametrize("small", ["merge", "drop"])
def test_a_batch_is_of_one_cell_and_says_which(fns, table, small):
    plan, stats = plan_of(table, small=small)
    for batch in batches(fns, plan, 3 * stats.plan.steps):
        assert batch["cells"].dtype == np.int32
        assert len(set(batch["cells"])) == 1
        clusters = set(CLUSTERS[batch["index"]])
        assert len(clusters) == 1 or (small == "merge" and clusters == {1, 3})
    assert (stats.found, stats.merged) == (3, int(small == "merge"))
    assert stats.plan.never == (0 if small == "merge" else (CLUSTERS == 1).sum())


def test_mixed_batches_know_the_cell_of_each_row(fns, table):
    plan, stats = plan_of(table, mode="mask")
    found = batches(fns, plan, stats.plan.steps)
    numbers = np.unique(CLUSTERS, return_inverse=True)[1]
    for batch in found:
        np.testing.assert_array_equal(batch["cells"], numbers[batch["index"]])
    assert any(len(set(batch["cells"])) > 1 for batch in found)
    rows = np.concatenate([batch["index"] for batch in found])
    assert len(set(rows)) == len(rows) == COUNT - COUNT % BATCH


@pytest.mark.parametrize("mode", ["batch", "mask"])
def test_hosts_hold_consecutive_rows_of_the_same_batches(fns, table, mode):
    plan = plan_of(table, mode=mode).plan
    whole = batches(fns, plan, 9)
    for count in (2, 4):
        hosts = [batches(fns, plan, 9, process_count=count, process_index=h) for h in range(count)]
        joined = [
            {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            for parts in zip(*hosts, strict=True)
        ]
        assert_same(joined, whole)


@pytest.mark.parametrize("mode", ["batch", "mask"])
@pytest.mark.parametrize("stop", [2, 6, 8])
def test_resuming_equals_not_stopping(fns, table, mode, stop):
    expected = batches(fns, plan_of(table, mode=mode).plan, 10)
    with open_stream(fns, plan_of(table, mode=mode).plan, num_threads=2) as stream:
        before = list(itertools.islice(stream, stop))
        state = json.loads(json.dumps(stream.get_state()))
    after = batches(fns, plan_of(table, mode=mode).plan, 10 - stop, start=state, num_threads=2)
    assert_same(before + after, expected)


@pytest.mark.parametrize("mode", ["batch", "mask"])
def test_a_bad_record_is_replaced_by_one_of_its_cell(fns, table, mode):
    bad = [int(np.flatnonzero(c == CLUSTERS)[0]) for c in (0, 3)]
    source = Patches(COUNT, bad=bad)
    plan, stats = plan_of(table, source, mode=mode)
    count = 3 * stats.plan.steps
    with open_stream(fns, plan, source) as stream:
        found = list(itertools.islice(stream, count))
        assert stream.stats().replaced > 1
    for batch, sound in zip(
        found, batches(fns, plan_of(table, mode=mode).plan, count), strict=True
    ):
        np.testing.assert_array_equal(batch["cells"], sound["cells"])
        assert not set(bad) & set(batch["index"])
        kept = ~np.isin(sound["index"], bad)
        np.testing.assert_array_equal(batch["index"][kept], sound["index"][kept])


# A single cell.


@pytest.mark.parametrize("mode", ["batch", "mask"])
def test_one_cell_is_the_plain_stream(fns, tmp_path, mode):
    one = plan_of(write(tmp_path / "one", np.full(COUNT, 5)), mode=mode)
    assert_same(batches(fns, one.plan, 20), batches(fns, None, 20))
    assert "a single one" in describe(one.stats, BATCH)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Trains four steps on squares whose cells are given, and returns its lines and parameters."""
    use_squares(monkeypatch)

    def run(cells=None, **arguments):
        config = tiny_config(total="4 steps", checkpoint__every="4 steps")
        config.evals = dict()
        if cells is not None:
            name = write(tmp_path / f"c{len(list(tmp_path.iterdir()))}", cells, SQUARES)
            config.data.cells = dict(table=name, **arguments)
        validate(config)
        workdir = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        train(config, workdir, command="")
        setup = make_setup(config, mesh=make_mesh(), examples_per_epoch=40)
        with checkpoint.open_checkpoints(workdir / "checkpoints", keep=2) as manager:
            state = checkpoint.restore(manager, 4, setup.abstract_state)[0]
        return jax.tree.leaves(state.params)

    return run


SQUARES = [f"square/{i}" for i in range(40)]


@pytest.mark.slow
def test_training_on_one_cell_is_plain_training_bit_for_bit(run):
    plain, one, mask = run(), run(np.zeros(40, int)), run(np.arange(40) % 4, mode="mask")
    for a, b in zip(plain, one, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(plain, mask, strict=True))


def test_the_batch_of_a_config_with_cells_is_known_before_the_data(monkeypatch):
    use_squares(monkeypatch)
    config = tiny_config()
    config.data.cells = dict(table="cells.parquet")
    setup = make_setup(config, mesh=make_mesh(), examples_per_epoch=40)
    assert setup.abstract_batch["cells"].dtype == np.int32


# Tables.


def test_cells_are_the_clusters_of_all_stages_and_modalities(tmp_path):
    rng = np.random.default_rng(0)
    given = rng.integers(0, 2, (3, COUNT))
    paths = [write(tmp_path / f"t{i}", labels) for i, labels in enumerate(given)]
    order = rng.permutation(COUNT)
    paths[1] = write(tmp_path / "t1", given[1][order], np.array(IDS)[order])
    manifest = write_cells(tmp_path / "all", [[paths[0], paths[1]], [paths[2]]], k=2)
    found = read_table(tmp_path / "all", kind="cells")
    assert found.columns["id"].tolist() == IDS
    stage0 = 2 * given[0] + given[1]
    tuples = np.array(manifest["tuples"])
    np.testing.assert_array_equal(tuples[found.columns["cluster"]], np.stack([stage0, given[2]], 1))
    assert manifest["k"] == 2


def test_only_siblings_are_merged(fns, tmp_path):
    # Cells of 20, 5, 5 and 30: the small ones are of different parents.
    cells = np.repeat([0, 1, 2, 3], [20, 5, 5, 30])
    path = write(tmp_path / "t", cells, tuples=[[0, 0], [0, 1], [1, 0], [1, 1]])
    plan, stats = plan_of(path)
    assert stats.merged == 2
    for batch in batches(fns, plan, 14):
        assert set(cells[batch["index"]]) <= {0, 1} or set(cells[batch["index"]]) <= {2, 3}
    assert "cells: 2 (2 of 4 merged), 0 of them smaller than the batch of 8" in describe(stats, 8)


@pytest.mark.parametrize(
    "other", [{"mode": "mask"}, {"small": "drop"}, {"sequence": "round_robin"}], ids=str
)
def test_a_state_of_another_plan_is_refused(fns, table, other):
    with open_stream(fns, plan_of(table).plan) as stream:
        state = stream.get_state()
    for plan in (None, plan_of(table, **other).plan):
        with open_stream(fns, plan) as stream, pytest.raises(ValueError, match="saved input state"):
            stream.set_state(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"small": "mask"}, "small='mask', expected one of"),
        ({"mode": "mask", "small": "drop"}, "small='drop' in mode 'mask'"),
        ({"mode": "bach"}, "mode: got 'bach'"),
        ({"table": "nothing.parquet"}, "there is no table nothing.parquet"),
        ({"batch_size": 1000}, "no batch of 1000"),
    ],
)
def test_wrong_arguments_are_refused(table, arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_of(**{"table": table, **arguments})


@pytest.mark.parametrize(
    ("clusters", "ids", "manifest", "message"),
    [
        (CLUSTERS, [f"other{i}" for i in range(COUNT)], {}, "t: .*It is of another data set"),
        (CLUSTERS[1:], IDS[1:], {}, r"lacks 1 of 60 examples: \['patch0'\]"),
        (CLUSTERS - 1, IDS, {}, "integers of at least 0"),
        (CLUSTERS / 2, IDS, {}, "integers of at least 0"),
        (CLUSTERS, IDS, {"tuples": [[0], [1]]}, "lack a number"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, clusters, ids, manifest, message):
    path = write(tmp_path / "t", clusters, ids, **manifest)
    with pytest.raises(ValueError, match=message):
        plan_of(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": {"table": "t", "mod": "mask"}}, "cells has 'mod'.*Did you mean 'mode'"),
        ({"cells": {"mode": "mask"}}, r"cells lacks \['table'\]"),
        ({"cells": {"table": "t", "mode": "bach"}}, "cells.mode is 'bach'"),
        ({"cells": {"table": "t"}, "columns": {"cells": "name"}}, "columns.cells are both set"),
        (
            {"cells": {"table": "t"}, "balance": {"table": "w", "use": "thin"}},
            "do not compose",
        ),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(monkeypatch, change, message):
    use_squares(monkeypatch)
    config = tiny_config()
    for key, value in change.items():
        config.data[key] = value
    with pytest.raises(ValueError, match=message):
        validate(config)
