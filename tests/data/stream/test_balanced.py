"""Balanced data: what is drawn is what the table keeps, at any step, before and after a switch."""

import itertools
import json

import numpy as np
import pytest

from bias_clip.balancing.thinning import keep
from bias_clip.data.image import make_image_fn
from bias_clip.data.stream import draws
from bias_clip.data.stream.balanced import make_plan
from bias_clip.data.tables import write_table
from tests.data import streams
from tests.data.streams import assert_same
from tests.data.tiny import Patches

COUNT, BATCH = 50, 8
IDS = [f"patch{i}" for i in range(COUNT)]
WEIGHTS = np.random.default_rng(0).choice([0.0, 0.3, 0.9, 1.0, 1.7], COUNT)
SWITCHES = [0, 1, 3, 6]  # of six steps


class Patched(Patches):
    """The same with the attributes as arrays, too."""

    @property
    def columns(self):
        return {"id": np.asarray(IDS), "number": np.arange(COUNT)}


SOURCES = {"records only": Patches(COUNT), "with arrays": Patched(COUNT)}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """In another order than the source, and with rows of others."""
    path = tmp_path_factory.mktemp("table") / "weights.parquet"
    return write(path, np.append(WEIGHTS, 1.0)[::-1], [*IDS, "another"][::-1])


def write(path, weights, ids=IDS, **manifest):
    columns = {"id": np.asarray(ids), "weight": np.asarray(weights)}
    write_table(path, columns, {"kind": "weights", **manifest})
    return str(path)


def open_stream(fns, plan, source=SOURCES["with arrays"], **arguments):
    return streams.open_stream(source, fns, plan=plan, **{"batch_size": BATCH, **arguments})


def batches(fns, plan, count, source=SOURCES["with arrays"], **arguments):
    return streams.batches(source, fns, count, plan=plan, **{"batch_size": BATCH, **arguments})


# Thinning.


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("seed", [0, 7])
def test_an_epoch_has_each_record_as_often_as_it_is_kept(fns, table, kind, seed):
    copies = keep(seed, IDS, WEIGHTS)
    source = SOURCES[kind]
    plan = make_plan(source, table=table, use="thin", seed=seed)
    rows = np.concatenate([b["index"] for b in batches(fns, plan, 30, source=source)])
    assert set(copies) == {0, 1, 2}
    for epoch in range(2):
        seen = rows[epoch * copies.sum() : (epoch + 1) * copies.sum()]
        np.testing.assert_array_equal(np.bincount(seen, minlength=COUNT), copies)


def test_weights_of_one_are_the_plain_stream(fns, tmp_path):
    plan = make_plan(
        SOURCES["with arrays"], table=write(tmp_path / "w", np.ones(COUNT)), use="thin"
    )
    assert_same(batches(fns, plan, 14), batches(fns, None, 14))


def test_rows_of_a_thinned_batch_belong_together(fns, table):
    plan = make_plan(SOURCES["with arrays"], table=table, use="thin")
    plain = {**fns, "image_fn": make_image_fn("decode|value_range(0,255)")}
    for batch in batches(plain, plan, 3, columns={"labels": "number"}):
        np.testing.assert_array_equal(batch["labels"], batch["index"])
        images = SOURCES["with arrays"].images[batch["index"], 0]
        np.testing.assert_allclose(batch["image"], images, atol=1e-3)


def test_the_seed_of_the_run_leaves_the_kept_records(fns, table):
    plan = make_plan(SOURCES["with arrays"], table=table, use="thin")
    size = len(plan.phases[0].source)
    one, two = (batches(fns, plan, 1, batch_size=size, seed=s)[0]["index"] for s in (1, 2))
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(np.sort(one), np.sort(two))


def test_a_bad_record_is_replaced_by_a_kept_one_and_named_by_its_place_in_the_source(fns, table):
    bad = int(np.argmax(WEIGHTS == 1.7))

    class Torn(Patched):
        def __getitem__(self, index):
            if index == bad:
                raise ValueError("hash mismatch")
            return super().__getitem__(index)

    source = Torn(COUNT)
    plan = make_plan(source, table=table, use="thin")
    with open_stream(fns, plan, source) as stream:
        rows = np.concatenate([b["index"] for b in itertools.islice(stream, 20)])
        (reason,) = set(stream.stats().bad.values())
    assert reason == f"record {bad} of the data before thinning: hash mismatch"
    assert set(rows) <= set(np.flatnonzero(keep(0, IDS, WEIGHTS))) - {bad}


# Weighing.


def test_weights_stand_beside_the_plain_stream(fns, table):
    plan = make_plan(SOURCES["with arrays"], table=table, use="weight")
    got, plain = batches(fns, plan, 14), batches(fns, None, 14)
    for batch in got:
        assert batch["weights"].dtype == np.float32
        np.testing.assert_allclose(batch.pop("weights"), WEIGHTS[batch["index"]], rtol=1e-6)
    assert_same(got, plain)


# Two phases.


@pytest.mark.parametrize("use", ["thin", "weight"])
@pytest.mark.parametrize("first", ["balanced", "plain"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_two_phases_are_two_streams_cut_at_the_switch(fns, table, use, first, switch):
    given = {"table": table, "use": use}
    source = SOURCES["with arrays"]
    one, other = ("balanced", "plain") if first == "balanced" else ("plain", "balanced")
    parts = [batches(fns, make_plan(source, **given, first=name), 6) for name in (one, other)]
    got = batches(fns, make_plan(source, **given, first=first, switch=switch), 6, num_threads=2)
    assert_same(got, [*parts[0][:switch], *parts[1][switch:]])
    plain = parts[1] if first == "balanced" else parts[0]
    assert use == "thin" or all((batch.pop("weights") == 1).all() for batch in plain)
    assert_same(plain, batches(fns, None, 6))


@pytest.mark.parametrize("use", ["thin", "weight"])
@pytest.mark.parametrize("stop", [2, 3, 4])  # before the switch, at it, and after it
@pytest.mark.parametrize("num_threads", [0, 2])
def test_resuming_across_the_switch_equals_not_stopping(fns, table, use, stop, num_threads):
    def plan():
        return make_plan(SOURCES["with arrays"], table=table, use=use, first="plain", switch=3)

    expected = batches(fns, plan(), 7)
    with open_stream(fns, plan(), num_threads=num_threads) as stream:
        before = list(itertools.islice(stream, stop))
        state = json.loads(json.dumps(stream.get_state()))
    after = batches(fns, plan(), 7 - stop, start=state, num_threads=num_threads)
    assert_same(before + after, expected)


def test_hosts_hold_consecutive_rows_of_both_phases(fns, table):
    plan = make_plan(SOURCES["with arrays"], table=table, use="thin", switch=2)
    hosts = [batches(fns, plan, 4, process_count=2, process_index=h) for h in range(2)]
    joined = [
        {key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*hosts, strict=True)
    ]
    assert_same(joined, batches(fns, plan, 4))


# What is refused.


@pytest.mark.parametrize(
    "other",
    [{"use": "weight"}, {"seed": 1}, {"first": "plain"}, {"switch": 4}, {"switch": None}],
    ids=str,
)
def test_a_state_of_another_plan_is_refused(fns, table, other):
    given = {"table": table, "use": "thin", "switch": 3}
    with open_stream(fns, make_plan(SOURCES["with arrays"], **given)) as stream:
        state = stream.get_state()
    for plan in (None, make_plan(SOURCES["with arrays"], **given | other)):
        with open_stream(fns, plan) as stream, pytest.raises(ValueError, match="saved input state"):
            stream.set_state(state)


def test_a_state_of_another_table_is_refused(fns, table, tmp_path):
    for use in ("thin", "weight"):
        plans = [
            make_plan(SOURCES["with arrays"], table=path, use=use)
            for path in (table, write(tmp_path / "w", np.ones(COUNT)))
        ]
        with open_stream(fns, plans[0]) as stream:
            state = stream.get_state()
        with (
            open_stream(fns, plans[1]) as stream,
            pytest.raises(ValueError, match="saved input state"),
        ):
            stream.set_state(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use": "thinn"}, "use='thinn', expected one of .*'thin', 'weight'"),
        ({"first": "last"}, "first='last', expected one of"),
        ({"switch": -1}, "switch=-1, expected a step"),
        ({"table": "nothing.parquet"}, "there is no table nothing.parquet"),
    ],
)
def test_wrong_arguments_are_refused(table, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_plan(SOURCES["with arrays"], **{"table": table, "use": "thin", **arguments})


@pytest.mark.parametrize(
    ("weights", "ids", "message"),
    [
        (WEIGHTS, [f"other{i}" for i in range(COUNT)], "w: .*It is of another data set"),
        (WEIGHTS[1:], IDS[1:], r"lacks 1 of 50 examples: \['patch0'\]"),
        (-WEIGHTS, IDS, "finite numbers of at least 0"),
        (np.where(WEIGHTS > 1, np.nan, WEIGHTS), IDS, "finite numbers of at least 0"),
        (0 * WEIGHTS, IDS, "every weight is 0"),
        (np.full(COUNT, 1e-9), IDS, "thinning keeps none of 50 records"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, weights, ids, message):
    path = write(tmp_path / "w", weights, ids)
    with pytest.raises(ValueError, match=message):
        make_plan(SOURCES["with arrays"], table=path, use="thin")


def test_a_table_of_something_else_is_refused(tmp_path):
    for kind, name, message in (("cells", "weight", "'cells'"), ("weights", "w8", "'weight'")):
        write_table(tmp_path / "t", {"id": IDS, name: WEIGHTS}, {"kind": kind})
        with pytest.raises(ValueError, match=message):
            make_plan(SOURCES["with arrays"], table=str(tmp_path / "t"), use="thin")


@pytest.mark.parametrize("weight", [2.0**62, 1e300, 9.3e18, 1e9])
@pytest.mark.parametrize("use", ["thin", "weight"])
def test_a_huge_weight_is_refused_before_memory_is_taken(tmp_path, weight, use):
    write(tmp_path / "w.parquet", np.full(len(IDS), weight))
    with pytest.raises(ValueError, match=r"w\.parquet: the largest weight"):
        make_plan(SOURCES["with arrays"], table=str(tmp_path / "w.parquet"), use=use)


def test_too_many_rows_of_an_epoch_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(draws, "MAX_DRAWN", 2 * COUNT)
    write(tmp_path / "w.parquet", np.full(COUNT, 3.0))
    with pytest.raises(ValueError, match=f"would draw {3 * COUNT} rows"):
        make_plan(SOURCES["with arrays"], table=str(tmp_path / "w.parquet"), use="thin")
