"""The stream's laws: its order depends on (seed, step) alone, and nothing bad passes unseen."""

import collections
import itertools
import json
import logging
import threading
import zlib

import numpy as np
import pytest

from bias_clip.data.image import make_image_fn
from bias_clip.data.sources import make_source
from bias_clip.data.stream import pipeline
from bias_clip.data.stream.examples import make_example_fn, shuffled_index
from bias_clip.data.stream.pipeline import make_train_iterator
from bias_clip.data.text import make_text_fn
from tests.data.streams import assert_same, batches
from tests.data.tiny import Patches, train_tokenizer

OPS = "decode|flip_lr|random_crop(4)|value_range(-1,1)"


@pytest.fixture(scope="module")
def fns(tmp_path_factory):
    model = train_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    text_fn = make_text_fn(tokenizer=model, length=8)
    return {"image_fn": make_image_fn(OPS), "text_fn": text_fn}


def joined(parts):
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def test_a_batch_has_the_promised_shapes_and_types(fns):
    (batch,) = batches(Patches(20), fns, 1, process_count=2)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((4, 4, 4, 3), "float32"),
        "text": ((4, 8), "int32"),
        "text_id": ((4,), "int32"),
        "index": ((4,), "int64"),
    }


# Order.


@pytest.mark.parametrize("process_count", [2, 4, 8])
@pytest.mark.parametrize("batch_size", [8, 192])  # hosts join 192 rows from up to three chunks
def test_hosts_hold_consecutive_rows_of_the_one_stream(fns, process_count, batch_size):
    source, size = Patches(21), {"batch_size": batch_size}
    hosts = [
        batches(source, fns, 3, process_count=process_count, process_index=h, **size)
        for h in range(process_count)
    ]
    together = [joined(parts) for parts in zip(*hosts, strict=True)]
    assert_same(together, batches(source, fns, 3, **size))


@pytest.mark.parametrize(("num_threads", "prefetch"), [(1, 1), (2, 2), (4, 3)])
@pytest.mark.parametrize("batch_size", [8, 96])  # 96 rows are joined from three chunks
def test_threads_do_not_change_the_stream(fns, num_threads, prefetch, batch_size):
    source, size = Patches(21, bad=(3,)), {"batch_size": batch_size, "max_bad_share": 1.0}
    got = batches(source, fns, 6, num_threads=num_threads, prefetch=prefetch, **size)
    assert_same(got, batches(source, fns, 6, **size))


@pytest.mark.parametrize(
    ("num_workers", "num_threads", "batch_size"),
    [(1, 0, 96), (2, 1, 8), pytest.param(3, 2, 96, marks=pytest.mark.slow)],
)
def test_processes_do_not_change_the_stream(fns, num_workers, num_threads, batch_size):
    """Nor what is said of it, nor how it is taken up."""
    source, size = (
        Patches(21, bad=(3,)),
        {"batch_size": batch_size, "max_bad_share": 1.0, "seed": 1},
    )
    whole = batches(source, fns, 6, **size)
    reading = {"num_workers": num_workers, "num_threads": num_threads}
    with make_train_iterator(source, **fns, **size, **reading) as stream:
        got = list(itertools.islice(stream, 4))
        state, stats = json.loads(json.dumps(stream.get_state())), stream.stats()
        stream.set_state(state)
        assert_same(got + list(itertools.islice(stream, 2)), whole)
        assert all(type(value) is np.ndarray for batch in got for value in batch.values())
    with make_train_iterator(source, **fns, **size, num_threads=0) as stream:
        assert len(list(itertools.islice(stream, 4))) == 4
        assert stream.stats() == stats
        assert json.loads(json.dumps(stream.get_state())) == state


def test_too_little_shared_memory_is_said_at_once(fns, monkeypatch):
    room = collections.namedtuple("Room", "total used free")
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda _: room(64e6, 63.99e6, 10_000))
    arguments = {**fns, "batch_size": 8, "seed": 1}
    needed = "has 0 MB free; 8 rows of a batch and 2 workers need .* MB.*shm-size"
    with pytest.raises(ValueError, match=needed):
        make_train_iterator(Patches(21), **arguments, num_workers=2)
    make_train_iterator(Patches(21), **arguments).close()  # threads need none


@pytest.mark.parametrize("count", [1, 2, 100, 2**16 + 7])  # the last by grain's cipher
@pytest.mark.parametrize("seed", [0, 2**62])
def test_each_epoch_is_a_permutation_of_its_own(count, seed):
    epochs = [
        [shuffled_index(p, count, seed) for p in range(e * count, (e + 1) * count)]
        for e in range(2)
    ]
    assert all(sorted(e) == list(range(count)) for e in epochs)
    if count >= 100:
        assert len({tuple(e) for e in epochs}) == 2
        assert all(e != sorted(e) for e in epochs)


def test_seeds_do_not_share_epochs():
    orders = {
        seed: [tuple(shuffled_index(e * 50 + i, 50, seed) for i in range(50)) for e in range(3)]
        for seed in range(4)
    }
    assert len({order for epochs in orders.values() for order in epochs}) == 12


def test_the_stream_runs_through_the_epochs_without_a_gap(fns):
    source = Patches(11)  # eleven and eight have no common divisor
    rows = joined(batches(source, fns, 11))["index"]
    for epoch in range(8):
        assert sorted(rows[epoch * 11 : (epoch + 1) * 11]) == list(range(11))


def test_a_source_smaller_than_the_batch_is_repeated_within_it(fns):
    (batch,) = batches(Patches(3), fns, 1)
    assert sorted(batch["index"][:3]) == sorted(batch["index"][3:6]) == [0, 1, 2]


def test_seed_decides_order_and_augmentation(fns):
    one, two = (batches(Patches(30), fns, 2, seed=seed) for seed in (1, 2))
    assert not np.array_equal(one[0]["index"], two[0]["index"])
    again = batches(Patches(30), fns, 2, seed=1)
    assert_same(again, one)


def test_visits_draw_other_images_captions_and_crops(fns):
    source = Patches(1, per_record=3)
    rows = joined(batches(source, fns, 8))
    assert len(np.unique(rows["text_id"])) == 2  # two captions
    # three images, two ways round, three by two places: at most 36
    assert 18 <= len(np.unique(rows["image"].reshape(64, -1), axis=0)) <= 36


def test_another_augmentation_leaves_order_and_captions(fns):
    source = Patches(30, per_record=2)
    plain = {**fns, "image_fn": make_image_fn("decode|central_crop(4)|value_range(-1,1)")}
    one, two = joined(batches(source, fns, 4)), joined(batches(source, plain, 4))
    np.testing.assert_array_equal(one["index"], two["index"])
    np.testing.assert_array_equal(one["text"], two["text"])
    assert not np.array_equal(one["image"], two["image"])


def test_rows_belong_together(fns):
    source = Patches(30)
    plain = {**fns, "image_fn": make_image_fn("decode|value_range(0,255)")}
    for batch in batches(source, plain, 3):
        for row, index in enumerate(batch["index"]):
            np.testing.assert_allclose(batch["image"][row], source.images[index, 0], atol=1e-3)
            texts = [fns["text_fn"](c).tolist() for c in source[index]["captions"]]
            assert batch["text"][row].tolist() in texts


def test_labels_are_equal_exactly_where_the_tokens_are(fns):
    rows = joined(batches(Patches(100), fns, 20))
    same_tokens = (rows["text"][:, None] == rows["text"]).all(-1)
    np.testing.assert_array_equal(rows["text_id"][:, None] == rows["text_id"], same_tokens)
    assert rows["text_id"].min() >= 0
    # The hash is part of what a checkpoint may hold: it must not change with the Python version.
    expected = zlib.crc32(rows["text"][0].astype("<i4").tobytes()) % 2**31
    assert rows["text_id"][0] == expected


# State.


@pytest.mark.parametrize(("num_threads", "batch_size"), [(0, 8), (2, 8), (2, 96)])
@pytest.mark.parametrize("step", [0, 1, 3, 5])
def test_resuming_at_any_step_equals_not_stopping(fns, num_threads, batch_size, step):
    source, size = Patches(13, bad=(5,)), {"batch_size": batch_size, "max_bad_share": 1.0}
    arguments = {"seed": 1, "num_threads": num_threads, **size}
    with make_train_iterator(source, **fns, **arguments) as stream:
        before = list(itertools.islice(stream, step))
        state = json.loads(json.dumps(stream.get_state()))
        rest = list(itertools.islice(stream, 3))
        at_end = stream.get_state()
    assert_same(before + rest, batches(source, fns, step + 3, **size))
    with make_train_iterator(source, **fns, **arguments) as stream:
        next(stream)  # a used stream resumes as a fresh one does
        stream.set_state(state)
        assert_same(list(itertools.islice(stream, 3)), rest)
        assert stream.get_state() == at_end


def test_resuming_on_another_number_of_hosts_goes_on_with_the_same_stream(fns):
    source = Patches(13)
    with make_train_iterator(source, **fns, batch_size=8, seed=1, process_count=2) as stream:
        next(stream)
        state = stream.get_state()
    assert_same(batches(source, fns, 2, start=state), batches(source, fns, 3)[1:])


@pytest.mark.parametrize(
    "other",
    [{"batch_size": 16}, {"seed": 3}, {"source": Patches(14)}],
    ids=["batch_size", "seed", "source"],
)
def test_a_state_of_another_run_is_refused(fns, other):
    with make_train_iterator(Patches(13), **fns, batch_size=8, seed=1) as stream:
        state = stream.get_state()
    arguments = {"source": Patches(13), "batch_size": 8, "seed": 1, **fns, **other}
    with make_train_iterator(**arguments) as stream:
        with pytest.raises(ValueError, match=r"saved input state is of .*this run has"):
            stream.set_state(state)
        with pytest.raises(ValueError, match="saved input state is of"):
            stream.set_state({})


def test_close_ends_the_threads_and_the_stream_can_go_on(fns):
    source = Patches(13)
    before = set(threading.enumerate())
    stream = make_train_iterator(source, **fns, batch_size=8, seed=1, num_threads=2)
    first = next(stream)
    # The difference, and not `>`: a thread of an earlier test may end between the two.
    assert set(threading.enumerate()) - before
    stream.close()
    stream.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
    assert set(threading.enumerate()) <= before
    assert_same([first, next(stream)], batches(source, fns, 2))
    stream.close()


# Bad records.


def test_bad_records_are_replaced_the_same_way_on_any_host_and_thread_count(fns):
    source, bad = Patches(20, bad=(2, 7)), {"max_bad_share": 1.0}
    alone = batches(source, fns, 5, **bad)
    hosts = [
        batches(source, fns, 5, process_count=2, process_index=h, num_threads=2, **bad)
        for h in range(2)
    ]
    assert_same([joined(parts) for parts in zip(*hosts, strict=True)], alone)
    rows = joined(alone)["index"]
    assert not {2, 7} & set(rows.tolist())
    clean = joined(batches(Patches(20), fns, 5))["index"]
    replaced = np.isin(clean, [2, 7])
    assert replaced.sum() == 4
    np.testing.assert_array_equal(rows[~replaced], clean[~replaced])


def test_bad_records_are_counted_and_named_once(fns, caplog):
    source = Patches(20, bad=(2, 7))
    arguments = {"batch_size": 20, "seed": 1, "num_threads": 2}
    with (
        caplog.at_level(logging.WARNING),
        make_train_iterator(source, **fns, **arguments) as stream,
    ):
        list(itertools.islice(stream, 4))
        stats = stream.stats()
    assert (stats.examples, stats.replaced) == (80, 8)
    assert sorted(stats.bad) == ["patch2 (record 2)", "patch7 (record 7)"]
    assert all("cannot decode an image of 6 bytes" in reason for reason in stats.bad.values())
    assert [r.message for r in caplog.records if "patch2" in r.message] == [
        f"bad record patch2 (record 2): {stats.bad['patch2 (record 2)']}"
    ]


@pytest.mark.parametrize("captions", [(), ("",), (" ", "\n")])
def test_records_without_a_caption_are_bad(fns, captions):
    class Mute(Patches):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            return {**record, "captions": captions} if index == 4 else record

    with make_train_iterator(Mute(10), **fns, batch_size=10, seed=1) as stream:
        assert 4 not in next(stream)["index"]
        assert stream.stats().bad == {"patch4 (record 4)": "no caption, or empty ones only"}


def test_empty_captions_beside_others_are_never_drawn(fns):
    class HalfMute(Patches):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "captions": ("", "a red cat")}

    rows = joined(batches(HalfMute(10), fns, 4))
    assert (rows["text"] == fns["text_fn"]("a red cat")).all()


def test_records_that_cannot_be_read_are_bad(fns):
    class Torn(Patches):
        def __getitem__(self, index):
            if index == 4:
                raise ValueError("hash mismatch")
            return super().__getitem__(index)

    with make_train_iterator(Torn(10), **fns, batch_size=10, seed=1) as stream:
        next(stream)
        assert stream.stats().bad == {"record 4": "hash mismatch"}


def test_too_many_bad_records_are_an_error_that_names_them(fns):
    source = Patches(100, bad=range(0, 100, 10))
    with make_train_iterator(source, **fns, batch_size=50, seed=1, max_bad_share=0.02) as stream:
        with pytest.raises(
            ValueError, match=r"were bad records, more than max_bad_share=0.02.*pat"
        ):
            list(itertools.islice(stream, 20))
        # a tenth are bad: twenty of them, the allowance of the first thousand, need 200 examples
        assert 150 <= stream.stats().examples <= 300


def test_no_bad_record_is_allowed_at_share_zero(fns):
    with (
        make_train_iterator(
            Patches(10, bad=(3,)), **fns, batch_size=10, seed=1, max_bad_share=0.0
        ) as stream,
        pytest.raises(ValueError, match="1 of 10 examples were bad"),
    ):
        next(stream)


def test_a_few_bad_records_are_never_an_error(fns):
    source = Patches(400, bad=(3,))
    with make_train_iterator(source, **fns, batch_size=100, seed=1) as stream:
        list(itertools.islice(stream, 40))
        assert stream.stats().replaced == 10


def test_a_source_of_bad_records_only_fails_at_the_start(fns):
    with pytest.raises(ValueError, match=r"64 records drawn for position 0 were all bad, .*patch"):
        make_train_iterator(Patches(9, bad=range(9)), **fns, batch_size=4, seed=1)


@pytest.mark.parametrize(("num_threads", "num_workers"), [(0, 0), (2, 0), (0, 1)])
def test_errors_that_are_not_the_records_are_raised(fns, num_threads, num_workers):
    class Unplugged(Patches):
        def __getitem__(self, index):
            if index == 4:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    arguments = {
        "batch_size": 30,
        "seed": 1,
        "num_threads": num_threads,
        "num_workers": num_workers,
    }
    with (
        make_train_iterator(Unplugged(30), **fns, **arguments) as stream,
        pytest.raises(OSError, match="the disk is gone"),
    ):
        next(stream)


# The embedded data.


def test_the_embedded_data_make_batches_of_distinct_entries():
    arguments = {
        "image_fn": make_image_fn("decode|affine(16)|background(random)|value_range(-1,1)"),
        "text_fn": make_text_fn(tokenizer="emoji", length=16),
    }
    source = make_source(name="emoji", split="train", unit="entry")
    with make_train_iterator(source, **arguments, batch_size=256, seed=0) as stream:
        batch = next(stream)
        assert stream.stats().replaced == 0
    assert batch["image"].shape == (256, 16, 16, 3)
    assert 0.2 < batch["image"].std() < 1
    assert len(np.unique(batch["index"])) == 256
    assert len(np.unique(batch["text_id"])) > 200
    assert (batch["text"][:, -1] == 1).mean() > 0.9  # captions fit


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 9, "process_count": 2}, "got batch_size=9 for 2 processes"),
        ({"batch_size": 0}, "got batch_size=0 for 1 processes"),
        ({"process_index": 2, "process_count": 2}, "process_index=2 of 2"),
        ({"num_threads": -1}, "num_threads=-1"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"max_bad_share": 2.0}, "max_bad_share=2.0"),
        ({"prefetch": 0}, "prefetch=0"),
        ({"seed": -1}, "got seed=-1, expected 0 to"),
        ({"source": Patches(0)}, "the source has 0 records"),
        ({"image_fn": lambda x, _: x[0]}, r"give uint8\[5, 3\], expected uint8 or float32 \[h, w"),
        ({"image_fn": lambda x, _: x * 1.0}, r"give float64\[6, 5, 3\], expected uint8 or float32"),
        ({"text_fn": lambda text: np.zeros(4)}, r"text_fn gives float64\[4\]"),
    ],
)
def test_wrong_arguments_fail_before_the_first_batch(fns, arguments, message):
    defaults = {"source": Patches(10), "batch_size": 8, "seed": 1, **fns}
    with pytest.raises(ValueError, match=message):
        make_train_iterator(**{**defaults, **arguments})


def test_images_of_many_sizes_without_a_resize_are_an_error(fns):
    class Sizes(Patches):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "image": np.zeros((4 + index, 4, 3), np.uint8)}

    plain = {**fns, "image_fn": make_image_fn("decode|value_range(-1,1)")}
    with pytest.raises(ValueError, match=r"different shapes in one batch.*resize"):
        batches(Sizes(10), plain, 1)


def test_the_example_function_is_pure(fns):
    make_example = make_example_fn(Patches(10), **fns, seed=5)
    for position in (3, 2**40):
        one, two = make_example(position), make_example(position)
        np.testing.assert_array_equal(one.image, two.image)
        assert (one.record, one.text.tolist()) == (two.record, two.text.tolist())


@pytest.mark.parametrize(
    ("share", "low", "high"),
    [(0.0, 0.4, 0.6), (0.5, 0.65, 0.85), (1.0, 1.0, 1.0)],
    ids=["any of the two", "half of them the first", "always the first"],
)
def test_the_first_caption_comes_as_often_as_asked(fns, share, low, high):
    source = Patches(40)
    make_example = make_example_fn(source, **fns, seed=5, first_caption=share)
    first = [fns["text_fn"](source[i]["captions"][0]).tolist() for i in range(len(source))]
    drawn = [make_example(position) for position in range(400)]
    assert low <= np.mean([e.text.tolist() == first[e.record] for e in drawn]) <= high


def test_a_share_of_first_captions_outside_of_0_to_1_is_an_error(fns):
    with pytest.raises(ValueError, match=r"first_caption=1.5, expected a share"):
        make_example_fn(Patches(10), **fns, seed=5, first_caption=1.5)
