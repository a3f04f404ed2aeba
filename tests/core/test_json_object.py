"""JSON that every reader takes, and damaged JSON that is refused by name."""

import json
import math

import numpy as np
import pytest

from bias_clip.core.json_object import parse_object, to_json


def refuse(name):
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_numbers_that_are_not_finite_become_null(number):
    text = to_json({"a": number, "b": [1, (number, 2.5)], "c": {"d": number}})
    assert json.loads(text, parse_constant=refuse) == {
        "a": None,
        "b": [1, [None, 2.5]],
        "c": {"d": None},
    }


def test_other_values_stay():
    value = {"a": 1, "b": [True, None, "é"], "c": -0.5}
    assert json.loads(to_json(value)) == value


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_object_is_named(content):
    with pytest.raises(ValueError, match=r"run.json: got .*expected a JSON object.*restore it"):
        parse_object(content, "run.json", advice="restore it")
