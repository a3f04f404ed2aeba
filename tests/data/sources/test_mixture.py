"""Mixtures: rates hold exactly, resuming is exact, and size costs nothing."""

import json
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from bias_clip.data.image import make_image_fn
from bias_clip.data.records import column
from bias_clip.data.sources import make_source
from bias_clip.data.sources.mixture import Mixture
from bias_clip.data.stream.balanced import make_plan
from bias_clip.data.stream.pipeline import make_train_iterator
from bias_clip.data.tables import write_table
from bias_clip.data.text import make_text_fn
from tests.data.tiny import Patches


class Patched(Patches):
    """With the attributes as arrays, too."""

    @property
    def columns(self):
        ids = np.asarray([self[i]["id"] for i in range(len(self))])
        return {"id": ids, "number": np.arange(len(self))}


class Huge:
    """A source that holds nothing."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return {"id": str(index), "image": b"", "captions": ()}


def mixed(rates=None, sizes=None, **arguments):
    sizes = sizes or {"a": 30, "b": 10}
    return Mixture(
        {n: Patched(s) for n, s in sizes.items()}, rates or {"a": 1, "b": 1}, **arguments
    )


def drawn(mixture):
    return Counter(mixture[i]["mixture"] for i in range(len(mixture)))


def test_a_source_with_too_few_records_repeats_evenly(caplog):
    mixture = mixed({"a": 3, "b": 2.5})
    assert drawn(mixture) == {"a": 30, "b": 25}
    times = Counter(mixture[i]["number"] for i in range(30, 55))
    assert set(times) == set(range(10))
    assert set(times.values()) == {2, 3}
    assert "b: 25 of 10 records, each 2.50 times on average" in caplog.text
    assert "a:" not in caplog.text


@pytest.mark.parametrize("records", [2, 7, 40, 1000])
def test_rates_hold_up_to_rounding_at_any_size(records):
    mixture = mixed({"a": 0.7, "b": 0.3}, records=records)
    got = drawn(mixture)
    assert len(mixture) == records
    assert abs(got["a"] - 0.7 * records) <= 1
    ids = column(mixture, "id").tolist()
    assert len(set(ids)) == records
    assert ids == [mixture[i]["id"] for i in range(records)]
    assert column(mixture, "number").tolist() == [mixture[i]["number"] for i in range(records)]
    assert column(mixture, "mixture").tolist() == [mixture[i]["mixture"] for i in range(records)]


def test_a_choice_is_seeded_and_has_no_record_twice():
    chosen = [{m[i]["id"] for i in range(8)} for m in (mixed(records=8, seed=s) for s in (0, 0, 1))]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 8


def test_columns_that_one_source_lacks_are_missing_there():
    class Aged(Patched):
        @property
        def columns(self):
            return {"id": super().columns["id"], "age": np.arange(len(self)) + 2**53}

    mixture = Mixture({"a": Aged(2), "b": Patched(2)}, {"a": 1, "b": 1})
    assert column(mixture, "age").tolist() == [2**53, 2**53 + 1, None, None]


def test_five_sources_of_a_billion_records_take_no_memory():
    tracemalloc.start()
    began = time.perf_counter()
    names = "abcde"
    mixture = Mixture({n: Huge(10**9) for n in names}, {n: i + 1 for i, n in enumerate(names)})
    ids = {mixture[i]["id"] for i in range(0, len(mixture), len(mixture) // 50)}
    seconds, peak = time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(mixture) == 15 * 10**9
    assert len(ids) > 40
    assert peak < 2**20
    assert seconds < 1


def test_a_stream_reads_records_beyond_32_bits():
    class Patchy(Huge):
        def __getitem__(self, index):
            return {**Patches(1)[0], "id": str(index)}

    mixture = Mixture({n: Patchy(3 * 10**9) for n in "ab"}, {"a": 1, "b": 1})
    with stream(mixture) as batches:
        first = [next(batches)["index"] for _ in range(4)]
        state = batches.get_state()
        after = next(batches)["index"]
    indices = np.concatenate(first)
    assert indices.dtype == np.int64
    assert (indices > 2**32).any()
    assert len(set(indices.tolist())) == len(indices)
    assert (indices < len(mixture)).all()
    with stream(mixture) as batches:
        batches.set_state(state)
        np.testing.assert_array_equal(next(batches)["index"], after)


@pytest.mark.parametrize(
    ("rates", "arguments", "message"),
    [
        ({"a": 1}, {}, r"rates for \['a'\] and sources \['a', 'b'\]"),
        ({"a": 1, "b": 0}, {}, "positive numbers"),
        ({"a": 1, "b": float("nan")}, {}, "positive numbers"),
        ({"a": 1, "b": 1}, {"records": 1}, "records=1 for 2 sources"),
        ({"a": 1, "b": 1e-9}, {"records": 9}, "would give none"),
        ({"a": 1, "b": 1}, {"seed": -1}, "seed=-1"),
        ({"a": 1, "b": 1}, {"sources": {"a": {}, "b": {}}}, r"\['a', 'b'\] have no `name`"),
    ],
)
def test_what_makes_no_mixture_is_refused(rates, arguments, message):
    sources = {n: {"name": "emoji", "split": "train", "styles": ("noto",)} for n in "ab"}
    with pytest.raises(ValueError, match=message):
        make_source(name="mixture", **{"sources": sources, "rates": rates, **arguments})


def stream(source, **arguments):
    settings = {"batch_size": 8, "seed": 3, "num_threads": 0, **arguments}
    image_fn = make_image_fn("decode|resize(4)|flip_lr|value_range(-1,1)")
    text_fn = make_text_fn(tokenizer="emoji", length=8)
    return make_train_iterator(source, image_fn=image_fn, text_fn=text_fn, **settings)


def test_a_run_on_a_mixture_resumes_exactly_and_refuses_other_rates():
    with stream(mixed()) as batches:
        first = [next(batches) for _ in range(3)]
        state = json.loads(json.dumps(batches.get_state()))
        rest = [next(batches)["image"] for _ in range(6)]
    assert len(first) == 3
    with stream(mixed(), num_threads=2) as batches:
        batches.set_state(state)
        for image in rest:
            np.testing.assert_array_equal(next(batches)["image"], image)
    for other in (mixed({"a": 1.1, "b": 1}, records=60), mixed(records=60, seed=1)):
        with stream(other) as batches, pytest.raises(ValueError, match="'drawn'"):
            batches.set_state(state)


def test_weights_made_of_a_mixture_thin_it(tmp_path):
    mixture = mixed()
    ids = column(mixture, "id")
    weight = np.where(column(mixture, "mixture") == "b", 0.0, 1.0)
    write_table(tmp_path / "w.parquet", {"id": ids, "weight": weight}, {"kind": "weights"})
    plan = make_plan(mixture, table=str(tmp_path / "w.parquet"), use="thin")
    columns = {"labels": "mixture", "cells": "number"}
    with stream(mixture, plan=plan, columns=columns) as batches:
        for _ in range(4):
            batch = next(batches)
            assert set(batch["labels"].tolist()) == {0}
            assert (batch["index"] < 30).all()
