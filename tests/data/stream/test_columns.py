"""Columns of the batch: codes, priors and weights from the attributes of records."""

import itertools

import numpy as np
import pytest

from bias_clip.data.image import make_image_fn
from bias_clip.data.records import as_array
from bias_clip.data.sources import make_source
from bias_clip.data.stream.columns import codes, make_columns, shares
from bias_clip.data.stream.pipeline import make_train_iterator
from bias_clip.data.text import make_text_fn


class Table:
    """Records of attributes alone."""

    def __init__(self, **columns):
        self.columns = {k: np.asarray(v) for k, v in columns.items()}

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, i):
        raise AssertionError("columns are not read record by record")


TABLE = Table(
    role=["judge", "", "cook", "judge"],
    tone=[3, -1, 0, 3],
    gender=["man", "woman", "person", "woman"],
    chance=[0.0, 0.5, 0.25, 0.9],
    weight=[1.0, 0.0, 2.0, 3.0],
    broken=[1.0, np.nan, 0.0, 0.0],
)


@pytest.mark.parametrize(
    ("key", "wanted", "expected"),
    [
        ("labels", "role", [1, -1, 0, 1]),
        ("bias_labels", "tone", [3, -1, 0, 3]),
        ("bias_labels", {"attribute": "gender", "values": ("woman", "man")}, [1, 0, -1, 0]),
        ("cells", "gender", [0, 2, 1, 2]),
        ("prior", "chance", [0.0, 0.5, 0.25, 0.9]),
        ("prior", {"share_of": "role"}, [1 / 3, 0.0, 0.0, 1 / 3]),
        ("prior", {"share_of": "role", "most": 0.25}, [0.25, 0.0, 0.0, 0.25]),
        ("weights", "weight", [1.0, 0.0, 2.0, 3.0]),
    ],
)
def test_a_column_is_what_it_is_made_of(key, wanted, expected):
    (got,) = make_columns(TABLE, {key: wanted}).values()
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.dtype == (np.float32 if key in ("prior", "weights") else np.int32)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": "role"}, r"\['label'\]; a batch can hold"),
        ({"labels": "rolle"}, "no attribute 'rolle'.*'role'"),
        ({"labels": "weight"}, "expected strings or integers"),
        ({"labels": {"attribute": "gender", "values": ("male",)}}, r"no record has \['male'\]"),
        ({"labels": {"attribute": "gender"}}, "expected the name of an attribute, or a dict"),
        ({"prior": "weight"}, r"from 0.0 to 3.0, expected at least 0 and less than 1"),
        ({"prior": {"share_of": "role", "most": 1.0}}, "most=1.0"),
        ({"weights": "broken"}, "finite numbers in every record"),
        ({"weights": "role"}, "finite numbers in every record"),
        ({"weights": 1.0}, "expected the name of an attribute"),
    ],
)
def test_what_cannot_be_a_column_is_an_error(columns, message):
    with pytest.raises(ValueError, match=message):
        make_columns(TABLE, columns)


def test_shares_are_the_chance_that_another_record_has_the_value():
    values = np.random.default_rng(0).choice(list("aaaabbc"), 50)
    expected = [np.mean(np.delete(values, i) == values[i]) for i in range(len(values))]
    np.testing.assert_allclose(shares(values, most=0.99), expected, rtol=1e-6)


def test_codes_do_not_depend_on_the_order_of_records():
    values = np.array(["b", "a", "c", "a"])
    np.testing.assert_array_equal(codes(values)[::-1], codes(values[::-1]))


def test_batches_hold_the_columns_of_their_records():
    source = make_source(name="emoji", split="train", styles=("noto",))
    with make_train_iterator(
        source,
        image_fn=make_image_fn("decode|background(white)|resize(8)|value_range(-1,1)"),
        text_fn=make_text_fn(tokenizer="emoji", length=8),
        batch_size=32,
        seed=0,
        columns={"labels": "concept", "bias_labels": "tone", "prior": {"share_of": "concept"}},
    ) as stream:
        for batch in itertools.islice(stream, 3):
            concepts = [source[i]["concept"] for i in batch["index"]]
            expected = np.unique(source.columns["concept"])[batch["labels"]]
            np.testing.assert_array_equal(concepts, expected)
            tones = [source[i]["tone"] for i in batch["index"]]
            np.testing.assert_array_equal(tones, batch["bias_labels"])
            assert batch["prior"].dtype == np.float32


def test_what_is_missing_has_no_class_and_no_prior():
    for values in (
        ["", "", "cat", "dog", "dog"],
        [None, None, "cat", "dog", "dog"],
        [-1, -1, 0, 1, 1],
    ):
        source = [
            {"id": str(i), "image": b"", "captions": (), "c": v} for i, v in enumerate(values)
        ]
        made = make_columns(source, {"labels": "c", "prior": {"share_of": "c"}})
        assert made["labels"].tolist() == [-1, -1, 0, 1, 1]
        np.testing.assert_allclose(made["prior"], [0, 0, 0, 0.25, 0.25])


@pytest.mark.parametrize("values", [[5, 2**32 + 5, 7], [2**63, 0, 1], [None, 2**40, -1]])
def test_integers_beyond_31_bits_stay_different_labels(values):
    got = codes(as_array(values))
    known = [v for v in values if v is not None and v >= 0]
    assert len({int(c) for c in got if c >= 0}) == len(known)
    assert (got >= -1).all()


def test_integers_are_compared_exactly():
    large = np.array([2**53, 2**53 + 1])  # equal as float64
    assert codes(large, among=[2**53 + 1, 2**53]).tolist() == [1, 0]
    assert codes(large, among=[2**53]).tolist() == [0, -1]
    for value in (float(2**60), "9", 2**70, 0.5):
        with pytest.raises(ValueError, match="no record has"):
            codes(large, among=[value])
