"""One definition of a missing value, and columns whose type all values decide together."""

import numpy as np
import pytest

from bias_clip.data.records import LazyColumns, as_array, column, is_missing, missing, text_array


@pytest.mark.parametrize("value", ["", None, float("nan"), np.float32("nan")])
def test_nothing_is_missing(value):
    assert is_missing(value)
    assert missing(np.array([value, "x"], object)).tolist() == [True, False]


@pytest.mark.parametrize("value", [0, -1, False, "nan", "None", " ", 0.0, "N/A"])
def test_anything_that_somebody_wrote_is_not_missing(value):
    assert not is_missing(value)
    assert not missing(np.array([value], object)).any()


def test_a_negative_number_is_missing_among_codes_only():
    for values in (np.array([-1, 0]), np.array([-1.0, 0.0]), np.array([-1, 0], object)):
        assert missing(values, codes=True).tolist() == [True, False]
        assert not missing(values).any()
    assert missing(np.array(["", "a"]), codes=True).tolist() == [True, False]
    assert not missing(np.array([True, False]), codes=True).any()


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (["a", None, "b"], "U", ["a", "", "b"]),
        ([1, 2], "i", [1, 2]),
        ([1, None], "O", [1, None]),
        ([2**53 + 1, None, 2**53], "O", [2**53 + 1, None, 2**53]),
        ([2**63, 0], "u", [2**63, 0]),
        ([2**63, -1], "O", [2**63, -1]),
        ([True, None], "O", [True, None]),
        ([True, False], "b", [True, False]),
        ([1, 0.5], "f", [1.0, 0.5]),
        (["000010002", 8], "U", ["000010002", "8"]),
        ([None, None], "U", ["", ""]),
    ],
)
def test_the_type_of_a_column_is_that_of_all_its_values(values, dtype, expected):
    array = as_array(values)
    assert array.dtype.kind == dtype
    assert array.tolist() == expected


def test_numbers_with_gaps_are_nan_there():
    np.testing.assert_array_equal(as_array([0.5, None, 1]), [0.5, np.nan, 1])


@pytest.mark.parametrize("values", [[2**53 + 1, 0.5], ["a", True], ["a", 0.5], [["a"], "b"]])
def test_what_no_type_holds_is_refused_with_the_column(values):
    with pytest.raises(ValueError, match="column 'age'"):
        as_array(values, "age")


def test_one_long_cell_does_not_widen_all_others():
    values = ["a"] * 60_000 + ["x" * 100_000]  # of fixed width: 22 GiB
    array = text_array(values)
    assert array.dtype == object
    assert array.nbytes < 10**6
    assert array[-1] == values[-1]


def test_columns_are_made_when_they_are_asked_for():
    asked = []

    def make(name):
        asked.append(name)
        return np.arange(3)

    columns = LazyColumns(("a", "b"), make)
    taken = columns.take(np.array([2, 0]))
    assert "a" in columns
    assert sorted(columns) == ["a", "b"]
    assert asked == []
    assert taken["b"].tolist() == [2, 0]
    assert columns["b"].tolist() == [0, 1, 2]
    assert asked == ["b"]
    assert "c" not in columns


def test_a_column_of_records_is_typed_by_all_of_them():
    rows = [{"id": str(i), "image": b"", "captions": (), "age": a} for i, a in enumerate([1, None])]
    assert column(rows, "age").tolist() == [1, None]
