"""Names and arguments that come from outside, checked against the function that receives them."""

import functools

import ml_collections
import numpy as np
import pytest

from bias_clip.core.registry import (
    argument_names,
    call_by_name,
    check_arguments,
    name_arguments,
    nearest,
    refuse_unknown,
)


def draw(image, size: int | None, method: str = "area", *, wide: bool = False, rng=None):
    return image, size, method, wide, rng


def make(source, *, split: str, rate: float = 0.0, seed: int = 0, names: list[str] | None = None):
    return source, split, rate, seed, names


class Hidden(type):
    def __call__(cls, *args, **kwargs):
        return super().__call__(*args, **kwargs)


class Tower(metaclass=Hidden):
    def __init__(self, *, width: int, depth: int = 1):
        self.width, self.depth = width, depth


def test_a_call_by_name_is_the_call():
    got = call_by_name("thing", {"make": make}, "make", {"split": "a", "rate": 1}, "source")
    assert got == make("source", split="a", rate=1)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mak", {}, r"unknown thing 'mak'; expected one of \['make'\]. Did you mean 'make'\?$"),
        ("other", {}, r"unknown thing 'other'; expected one of \['make'\].$"),
        ("make", {"splitt": "a"}, r"thing 'make' has 'splitt'; .*'split'\]. Did you mean 'split'"),
        ("make", {}, r"thing 'make' lacks \['split'\]; make needs \['split'\]"),
        ("make", {"split": 1}, r"thing 'make'.split is 1 \(int\); expected str"),
        ("make", {"split": "a", "rate": True}, r"rate is True \(bool\); expected float"),
        ("make", {"split": "a", "rate": "1"}, r"rate is '1' \(str\); expected float"),
        ("make", {"split": "a", "seed": 1.0}, r"seed is 1.0 \(float\); expected int"),
        ("make", {"split": "a", "source": 1}, r"has 'source'; expected one of"),
        ("make", ["split"], r"expected a dict of arguments"),
    ],
)
def test_what_cannot_be_called_says_what_can(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        call_by_name("thing", {"make": make}, name, arguments, "source")


def test_numbers_of_numpy_and_sections_of_a_config_pass():
    check_arguments("x", make, {"split": "a", "rate": np.float32(1), "seed": np.int64(2)})
    check_arguments("x", make, ml_collections.ConfigDict({"split": "a", "rate": 1}))
    check_arguments("x", make, {"split": "a", "names": ("is not checked",)})


def test_given_arguments_are_not_the_configs():
    check_arguments("x", make, {}, given=("split",))
    with pytest.raises(ValueError, match="has 'split'"):
        check_arguments("x", make, {"split": "a"}, given=("split",))


def test_a_function_that_takes_more_refuses_nothing_and_still_needs_its_own():
    def loose(*, split: str, **rest):
        return split, rest

    check_arguments("x", loose, {"split": "a", "anything": 1})
    with pytest.raises(ValueError, match=r"lacks \['split'\]"):
        check_arguments("x", loose, {"anything": 1})


def test_classes_and_partials_have_the_arguments_of_what_they_call():
    assert argument_names(Tower) == ["width", "depth"]
    assert argument_names(make) == ["split", "rate", "seed", "names"]
    check_arguments("x", Tower, {"width": 3})
    with pytest.raises(ValueError, match="width is 'a'"):
        check_arguments("x", Tower, {"width": "a"})
    part = functools.partial(make, split="a")
    check_arguments("x", part, {"rate": 0.5})
    with pytest.raises(ValueError, match="rate is 'b'"):
        check_arguments("x", part, {"rate": "b"})


def test_arguments_with_an_order_get_their_names_and_defaults():
    given = ("image", "rng")
    named = name_arguments("x", draw, [3], {"wide": True}, given=given)
    assert named == {"size": 3, "method": "area", "wide": True}
    for args, kwargs, message in [
        ([], {}, "x: missing a required argument: 'size'; its arguments are"),
        ([1], {"size": 2}, "x: multiple values for argument 'size'"),
        ([1, "a", True], {}, "x: too many positional arguments"),
        ([1], {"rng": 1}, "x has 'rng'; expected one of"),
        (["a"], {}, "x.size is 'a'"),
    ]:
        with pytest.raises(ValueError, match=message):
            name_arguments("x", draw, args, kwargs, given=given)


def test_the_nearest_spelling_or_nothing():
    assert nearest("colour", ["color", "size"]) == " Did you mean 'color'?"
    assert nearest("zzz", ["color", "size"]) == ""
    refuse_unknown("x", ["size"], ["color", "size"])
    with pytest.raises(ValueError, match=r"x has 3; expected one of \['color'\].$"):
        refuse_unknown("x", [3], ["color"])
