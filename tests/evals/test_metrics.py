"""What evaluators say of their metrics: of all of them, of no others, and right."""

import functools
import math
import string

import pytest

from bias_clip.evals import DESCRIPTIONS, EVALUATORS, EvalResult, headlines, make_evaluator
from bias_clip.evals.headlines import by_importance, find_metric, headline_metrics
from bias_clip.evals.metrics import TOPICS, chance_level, family_of
from tests.evals.test_evaluators import ARGUMENTS, make_case

# What some arguments add to the metrics of the plain call.
MORE = {
    "bias": ({"stereotypes": (("cook",), ("judge",))},),
    "groups": ({"shares": (0.5, 0.5)},),
    "zeroshot": ({"separator": "|"},),
}
SHARES = ("share", "points", "signed points")


@functools.cache
def results(kind):
    """The results of the evaluator with the plain arguments, and with those of MORE."""
    source, encode = make_case()
    base = dict(ARGUMENTS[kind])
    if kind in ("factors", "probe"):
        base["train_source"] = source
    variants = ({}, *MORE.get(kind, ()))
    return [make_evaluator(kind, source, **base, **more)(encode) for more in variants]


def test_every_evaluator_describes_itself():
    assert DESCRIPTIONS.keys() == EVALUATORS.keys()


@pytest.mark.parametrize("kind", sorted(EVALUATORS))
def test_every_metric_has_a_description_and_every_description_a_metric(kind):
    described = DESCRIPTIONS[kind].metrics
    found = {key: family_of(key, described) for r in results(kind) for key in r.metrics}
    assert [key for key, family in found.items() if family is None] == []
    assert set(described) == {family[0] for family in found.values()}


@pytest.mark.parametrize("kind", sorted(EVALUATORS))
def test_every_evaluator_has_a_headline_a_chart_and_words(kind):
    topic, reads, described = DESCRIPTIONS[kind]
    assert topic in TOPICS
    assert reads.endswith(".")
    assert any(metric.headline for metric in described.values())
    assert any(metric.chart is not None for metric in described.values())
    for metric in described.values():
        assert metric.better != "neither" or not metric.chance
        assert (metric.unit != "count") or not (metric.headline or metric.chart)


@pytest.mark.parametrize("kind", sorted(EVALUATORS))
def test_units_and_chance_levels_fit_the_values(kind):
    for result in results(kind):
        for key, value in result.metrics.items():
            metric = find_metric(key, result.details)
            assert "{" not in metric.name + metric.label
            assert metric.chance is None or metric.chance in result.metrics
            if math.isnan(value):
                continue
            if metric.unit in SHARES:
                assert (-1 if metric.unit == "signed points" else 0) <= value <= 1, key
            if metric.unit == "count":
                assert value == round(value), key


def test_the_sentence_of_an_evaluator_uses_only_what_can_be_filled():
    words = {"first", "second", "groups", "sign", "target"}
    for description in DESCRIPTIONS.values():
        places = {name for _, name, _, _ in string.Formatter().parse(description.reads) if name}
        assert places <= words | set(description.metrics)


def test_shares_are_percentages_and_gaps_are_points():
    units = {
        ("bias", "stereotype_preference"): "signed points",
        ("bias", "stereotype_gap"): "signed points",
        ("bias", "association_mean"): "points",
        ("winoground", "text_acc"): "share",
        ("winoground", "image_acc"): "share",
        ("winoground", "chance_group"): "share",
        ("mmvp", "average"): "share",
        ("factors", "acc1_min"): "share",
        ("skew", "ndkl_uniform_5"): "nats",
        ("groups", "masked"): "count",
        ("of_your_own", "anything"): "number",
    }
    for (kind, key), unit in units.items():
        assert find_metric(key, {"kind": kind}).unit == unit, key


def test_families_are_found_by_their_places_and_exact_keys_win():
    metrics = ("acc1", "acc1_min", "acc1_{factor}", "t2i_r{k}", "t2i_r{k}_chance", "acc_{group}")
    assert family_of("acc1_min", metrics) == ("acc1_min", {})
    assert family_of("acc1_min_size", metrics) == ("acc1_{factor}", {"factor": "min_size"})
    assert family_of("t2i_r10_chance", metrics) == ("t2i_r{k}_chance", {"k": "10"})
    assert family_of("t2i_rx", metrics) is None
    assert family_of("acc_a.b c", metrics) == ("acc_{group}", {"group": "a.b c"})


def test_words_name_the_groups_and_the_cut_off():
    details = {"kind": "bias", "groups": ["light", "dark"]}
    assert find_metric("preference_plain", details).name == "nearer to “dark”, no role named"
    assert "second group" in find_metric("preference", {"kind": "bias"}).name
    metric = find_metric("i2t_r5", {"kind": "retrieval"})
    assert (metric.name, metric.chance) == ("image to text R@5", "i2t_r5_chance")
    assert find_metric("acc_of_dark_woman", {"kind": "groups"}).name == "accuracy, dark woman"


def test_chance_of_five_guesses_is_five_times_that_of_one():
    top5 = find_metric("acc5", {"kind": "zeroshot"})
    assert chance_level(top5, {"chance": 0.01}) == pytest.approx(0.05)
    assert chance_level(top5, {"chance": 0.5}) == 1.0
    assert chance_level(top5, {}) is None


def test_headlines_come_by_importance_then_as_the_config_has_them():
    made = {
        name: results(kind)[0]
        for name, kind in (
            ("a_probe", "probe"),
            ("gender", "bias"),
            ("search", "retrieval"),
            ("second", "zeroshot"),
            ("batches", "contrastive"),
            ("first", "zeroshot"),
        )
    }
    made["of_my_own"] = EvalResult({"value": 1.0}, {"kind": "mine"})
    order = ["second", "first", "search", "gender", "a_probe", "batches", "of_my_own"]
    assert by_importance(made) == order
    rows = headlines(made)
    assert list(dict.fromkeys(row.evaluator for row in rows)) == [
        "second", "first", "search", "gender", "a probe", "batches",
    ]  # fmt: skip
    assert rows[0].metric == "top-1"
    assert rows[0].value == f"{100 * made['second'].metrics['acc1']:.1f}\u202f%"
    assert rows[0].chance == "chance 50.0\u202f%"


def test_of_a_family_the_first_member_is_the_headline():
    assert list(headline_metrics(results("retrieval")[0])) == ["t2i_r1", "i2t_r1"]
    assert list(headline_metrics(results("skew")[0])) == ["maxskew_uniform_2", "ndkl_uniform_2"]
