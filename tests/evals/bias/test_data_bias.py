import json

import numpy as np
import pytest

from bias_clip.evals.bias.data_bias import data_bias, make_data_bias
from tests.evals.cases import ListSource, record


def random_case(seed=0, n=300):
    rng = np.random.default_rng(seed)
    groups, y = rng.integers(-1, 2, n), rng.random((n, 4)) < 0.3
    return groups, y, rng.random(n)


def bias_of(groups, y, weights=None, num_groups=2):
    shape = {"num_groups": num_groups, "num_labels": y.shape[1]}
    return data_bias(groups, *np.nonzero(y), weights=weights, **shape)


def test_moments_are_those_of_the_rows():
    groups, y, w = random_case()
    got = bias_of(groups, y, w)
    one, zero = groups == 1, groups == 0
    means = [np.average(y[rows], axis=0, weights=w[rows]) for rows in (zero, one)]
    assert got.prevalence[1] == pytest.approx(w[one].sum() / w[one | zero].sum())
    np.testing.assert_allclose(got.rates, means, atol=1e-12)
    np.testing.assert_allclose(got.gaps, [means[0] - means[1], means[1] - means[0]], atol=1e-12)


def test_no_weight_is_the_row_removed_and_weight_two_the_row_doubled():
    groups, y, _ = random_case()
    w = np.tile([0.0, 1.0, 2.0], 100)
    rows = np.repeat(np.arange(300), w.astype(int))
    for got, expected in zip(bias_of(groups, y, w), bias_of(groups[rows], y[rows]), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_moments_of_zero_are_no_bias():
    """E[q (s - pi)] = 0 and E[q (s - pi) y] = 0, here by one record of each kind, weighted alike."""
    groups = np.array([0, 0, 1, 1, -1])
    y = np.array([[1], [0], [1], [0], [1]], bool)
    got = bias_of(groups, y, np.array([3.0, 1, 3, 1, 9]))
    np.testing.assert_allclose(got.prevalence, 0.5)
    np.testing.assert_allclose(got.gaps, 0, atol=1e-15)


def test_order_of_records_changes_nothing():
    groups, y, w = random_case()
    order = np.random.default_rng(1).permutation(len(groups))
    shuffled = bias_of(groups[order], y[order], w[order])
    for one, other in zip(bias_of(groups, y, w), shuffled, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_an_absent_group_has_no_rates():
    groups, y, _ = random_case()
    got = bias_of(groups, y, num_groups=3)
    assert got.prevalence[2] == 0
    assert np.isnan(got.rates[2]).all()
    assert np.isnan(got.gaps[2]).all()
    np.testing.assert_allclose(got.gaps[:2], bias_of(groups, y).gaps)


def people():
    """Of six men four are judges, of four women one; one of them is a cook too, two are nothing."""
    rows = [("man", "judge")] * 4 + [("man", "cook"), ("man", "")]
    rows += [("woman", "judge|cook"), ("woman", "cook"), ("woman", "cook"), ("woman", "")]
    rows += [("", "judge"), ("none", "judge")]
    return ListSource(
        record(i, gender=g, work=w, weight=1.0 if g == "man" else 1.5, tone=-1 if i % 2 else 3)
        for i, (g, w) in enumerate(rows)
    )


ARGUMENTS = dict(by="gender", groups=("man", "woman"), label="work", separator="|")


def test_bias_of_a_source_is_what_was_built_in():
    result = make_data_bias(people(), **ARGUMENTS)(None)
    assert result.metrics == pytest.approx(
        {
            "representation": 0.1,
            "association_max": 3 / 4 - 1 / 6,
            "association_mean": ((4 / 6 - 1 / 4) + (3 / 4 - 1 / 6)) / 2,
            "ess": 1,
            "labels": 2,
            "groups": 2,
            "absent": 0,
            "images": 10,
            "masked": 2,
        }
    )
    details = json.loads(json.dumps(result.details, allow_nan=False))
    assert [row["name"] for row in details["labels"]] == ["cook", "judge"]  # the largest gap first
    assert details["labels"][0]["gaps"] == pytest.approx([1 / 6 - 3 / 4, 3 / 4 - 1 / 6])
    assert details["by_group"][0] == {"name": "man", "prevalence": 0.6, "target": 0.5, "count": 6}


def test_weights_of_a_column_are_what_is_fed():
    weighted = make_data_bias(people(), weights="weight", **ARGUMENTS)(None).metrics
    assert weighted["representation"] == pytest.approx(0)  # 6 x 1 = 4 x 1.5
    assert weighted["ess"] == pytest.approx(12**2 / (10 * (6 + 4 * 1.5**2)))
    targets = make_data_bias(people(), targets=(0.6, 0.4), **ARGUMENTS)(None).metrics
    assert targets["representation"] == pytest.approx(0)


def test_numbers_are_labels_and_negative_ones_are_none():
    result = make_data_bias(people(), by="gender", groups=("man", "woman"), label="tone")(None)
    assert result.metrics["labels"] == 1
    assert result.details["labels"][0]["rates"] == pytest.approx([0.5, 0.5])


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="shares of sum 1"):
        make_data_bias(people(), targets=(0.5, 0.6), **ARGUMENTS)
    source = people()
    source.columns["weight"] = -source.columns["weight"]
    with pytest.raises(ValueError, match="0 or more"):
        make_data_bias(source, weights="weight", **ARGUMENTS)
    with pytest.raises(ValueError, match="'work' that is known"):
        make_data_bias(people(), **ARGUMENTS, only={"work": ("",)})
