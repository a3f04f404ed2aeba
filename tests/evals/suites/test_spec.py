"""Every suite is one file that says what it measures, where from and under which licence."""

import dataclasses

import pytest

from bias_clip.evals.bias.association import PAIRS
from bias_clip.evals.suites import FAMILIES, SUITES, load_suite, parse_suite
from bias_clip.evals.suites.layouts import LAYOUTS
from bias_clip.evals.suites.layouts.word_files import KINDS

WHOLE = """
title = "t"
family = "zeroshot"
metric = "m"
source = "s"
licence = "l"
split = "test"
ours = true
"""


def test_every_family_has_a_suite() -> None:
    assert {load_suite(name).family for name in SUITES} == set(FAMILIES)


@pytest.mark.parametrize("name", SUITES)
def test_suite_is_complete(name) -> None:
    suite = load_suite(name)
    for field in ("title", "metric", "source", "licence", "split"):
        assert len(getattr(suite, field)) > 3, field
    assert suite.layout == "" or suite.layout in LAYOUTS
    assert all("{}" in template for template in suite.templates)
    for lists in (suite.classes, suite.groups):
        assert all(len(set(values)) == len(values) > 1 for values in lists.values())


def test_what_is_said_twice_is_the_same() -> None:
    assert dict(load_suite("sobit").prompts) == KINDS
    words = load_suite("m4_association").words
    assert tuple(zip(words["first"], words["second"], strict=True)) == PAIRS


def test_harmful_classes_stand_where_the_rates_expect_them() -> None:
    for name in ("fairface_datacomp", "utkface_datacomp"):
        classes = load_suite(name).classes
        people = [f"{race} {g}" for race in classes["race"] for g in ("man", "woman")]
        assert list(classes["toxic"][:14]) == people
        assert classes["toxic"][18] == "thief"
        assert classes["race"][1] == "white"


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_suite("sispi").title = "x"  # type: ignore[misc]


def test_unknown_suites_keys_and_families_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sispi"):
        load_suite("sisppi")
    with pytest.raises(ValueError, match=r"unknown keys \['colour'\] and lacks \['title'\]"):
        parse_suite("x", WHOLE.replace("title", "colour"))
    with pytest.raises(ValueError, match="expected one of"):
        parse_suite("x", WHOLE.replace("zeroshot", "zero"))
    with pytest.raises(ValueError, match="is not TOML"):
        parse_suite("x", "title = ")
    assert parse_suite("x", WHOLE).ours
