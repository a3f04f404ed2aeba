import json
from pathlib import Path

import numpy as np
import pytest

from bias_clip.evals.bias.group_columns import read_groups
from bias_clip.evals.bias.groups import (
    GroupMeans,
    across_groups,
    group_means,
    group_sums,
    make_groups,
)
from bias_clip.evals.bias.parity import choice_rates, make_parity, parity_gaps
from bias_clip.evals.quality.zeroshot import make_zeroshot
from bias_clip.evals.ranking import best_ranks, unit
from tests.evals.cases import ListSource, fixed_encode, normal, record

GOLDEN = Path(__file__).parents[2] / "golden"
# Their code divides in float32, so their shares are ours rounded to it, and no nearer.
AS_FLOAT32 = dict(rtol=1.2e-7, atol=0)


def golden(k):
    return np.load(GOLDEN / f"metric_group_{k}.npz")


@pytest.mark.parametrize("k", [0, 1])
def test_waterbirds_equal_wilds(k):
    case = golden(k)
    groups = 2 * case["wb_background"] + case["wb_y"]
    means = group_means(case["wb_pred"] == case["wb_y"], groups, num_groups=4)
    np.testing.assert_array_equal(means.num_rows, case["wb_group_count"])
    np.testing.assert_allclose(means.mean, case["wb_group_acc"], **AS_FLOAT32)
    exact = means.mean * means.num_rows  # hits, which no rounding hides
    np.testing.assert_array_equal(
        np.round(exact), np.round(case["wb_group_acc"] * case["wb_group_count"])
    )
    across = across_groups(means, shares=(3498, 56, 184, 1057))
    np.testing.assert_allclose(across.worst, case["wb_worst_group"], **AS_FLOAT32)
    np.testing.assert_allclose(across.adjusted, case["wb_adjusted_average"], **AS_FLOAT32)


@pytest.mark.parametrize("k", [0, 1])
def test_dollar_street_equals_datacomp_and_an_empty_bucket_is_no_number(k):
    case = golden(k)
    logits, y = case["ds_logits"], case["ds_y"]
    eye = np.eye(logits.shape[1], dtype=np.float32)
    right = best_ranks(logits, eye, np.arange(len(y)), y) < 5
    means = group_means(right, case["ds_income"] - case["ds_income"].min(), num_groups=4)
    np.testing.assert_array_equal(means.num_rows, case["ds_group_count"])
    np.testing.assert_allclose(means.mean, case["ds_group_top5"], **AS_FLOAT32)
    assert np.isnan(means.mean).tolist() == (case["ds_group_count"] == 0).tolist()
    np.testing.assert_allclose(right.mean(), case["ds_top5_average"], **AS_FLOAT32)
    np.testing.assert_allclose(
        across_groups(means).worst, case["ds_top5_worst_group"], **AS_FLOAT32
    )


@pytest.mark.parametrize("k", [0, 1])
def test_geode_equals_datacomp(k):
    case = golden(k)
    right = case["ge_pred"] == case["ge_y"]
    means = group_means(right, case["ge_region"], num_groups=6)
    np.testing.assert_allclose(means.mean, case["ge_group_acc"], **AS_FLOAT32)
    np.testing.assert_allclose(across_groups(means).worst, case["ge_worst_group"], **AS_FLOAT32)
    np.testing.assert_allclose(right.mean(), case["ge_average"], **AS_FLOAT32)


@pytest.mark.parametrize("k", [0, 1])
def test_fairface_tables_equal_datacomp(k):
    case = golden(k)
    race, gender, pred = case["ff_race"], case["ff_gender"], case["ff_pred"]
    num_races = race.max() + 1
    right = {
        "race": (pred[:, 0] != 1) == case["ff_race_binary"],
        "gender": pred[:, 1] == gender,
        "age": pred[:, 2] == case["ff_age"],
    }
    for name, values in right.items():
        means = group_means(values, case["ff_race_binary"], num_groups=2)
        got = [*means.mean, values.mean(), across_groups(means).worst]
        np.testing.assert_allclose(got, case[f"ff_{name}_acc"], **AS_FLOAT32)
    means = group_means(right["gender"], gender * num_races + race, num_groups=2 * num_races)
    np.testing.assert_allclose(
        means.mean.reshape(2, -1), case["ff_gender_by_race_gender"], **AS_FLOAT32
    )
    worst = across_groups(means).worst
    np.testing.assert_allclose(worst, case["ff_gender_by_race_gender_worst"], **AS_FLOAT32)
    toxic = np.stack([pred[:, 3] >= 18, (pred[:, 3] >= 14) & (pred[:, 3] < 18)], axis=1)
    rates = group_means(toxic, race, num_groups=num_races).mean
    np.testing.assert_allclose(rates[:, 0], case["ff_crime_rate_by_race"], **AS_FLOAT32)
    np.testing.assert_allclose(rates[:, 1], case["ff_nonhuman_rate_by_race"], **AS_FLOAT32)


def random_case(seed=0, n=200, num_groups=5):
    rng = np.random.default_rng(seed)
    return rng.random(n), rng.integers(-1, num_groups, n), rng.random(n)


def test_order_of_rows_changes_nothing():
    values, groups, weights = random_case()
    order = np.random.default_rng(1).permutation(len(values))
    one = group_means(values, groups, num_groups=5, weights=weights)
    other = group_means(values[order], groups[order], num_groups=5, weights=weights[order])
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-14)
    np.testing.assert_array_equal(one.num_rows, other.num_rows)
    swap = np.array([3, 1, 4, 0, 2])  # the groups by other numbers
    named = np.where(groups >= 0, swap[groups], -1)
    other = group_means(values, named, num_groups=5, weights=weights)
    np.testing.assert_allclose(one.mean, other.mean[swap], atol=1e-14)


def test_the_worst_group_is_not_above_any_mean():
    for seed in range(20):
        values, groups, _ = random_case(seed)
        known = groups >= 0
        across = across_groups(group_means(values, groups, num_groups=5), shares=(1, 2, 3, 4, 5))
        assert across.worst <= min(across.mean, across.adjusted, values[known].mean())
        assert across.range >= 0
        assert group_means(values, groups, num_groups=5).mean[across.worst_group] == across.worst


def test_shares_of_the_counts_give_the_mean_of_all_rows():
    values, groups, _ = random_case()
    means = group_means(values, groups, num_groups=5)
    adjusted = across_groups(means, shares=means.num_rows.tolist()).adjusted
    assert adjusted == pytest.approx(values[groups >= 0].mean(), abs=1e-14)


def test_unknown_groups_are_masked_and_zero_weight_is_the_row_removed():
    values, groups, weights = random_case()
    weights[::3] = 0
    keep = (groups >= 0) & (weights > 0)
    values[~keep] = np.nan  # what is not counted may be anything
    got = group_means(values, groups, num_groups=5, weights=weights)
    expected = group_means(values[keep], groups[keep], num_groups=5, weights=weights[keep])
    np.testing.assert_array_equal(got.mean, expected.mean)
    np.testing.assert_array_equal(got.num_rows, expected.num_rows)


def test_sums_of_blocks_add_up():
    values, groups, weights = random_case()
    whole = group_sums(values, groups, num_groups=5, weights=weights)
    parts = [
        group_sums(values[b], groups[b], num_groups=5, weights=weights[b])
        for b in (slice(0, 70), slice(70, None))
    ]
    for one, *two in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(one, sum(two), atol=1e-12)


def test_an_absent_group_is_no_number_and_not_the_worst():
    means = group_means(np.array([1.0, 0.5]), np.array([0, 2]), num_groups=4)
    np.testing.assert_array_equal(means.mean, [1.0, np.nan, 0.5, np.nan])
    across = across_groups(means, shares=(1, 100, 1, 100))
    assert across == (0.5, 2, 0.75, 0.5, 0.75)
    nobody = across_groups(group_means(np.zeros(2), np.full(2, -1), num_groups=2))
    assert nobody.worst_group == -1
    assert np.isnan([nobody.worst, nobody.mean, nobody.range]).all()


def test_small_groups_are_left_out():
    means = GroupMeans(np.array([0.1, 0.5, 0.9]), np.array([2, 10, 10]))
    assert across_groups(means).worst == 0.1
    assert across_groups(means, min_count=3)[:2] == (0.5, 1)


def test_wrong_groups_and_weights_are_refused():
    with pytest.raises(ValueError, match=r"-1 .unknown. to 1"):
        group_means(np.zeros(2), np.array([0, 2]), num_groups=2)
    with pytest.raises(ValueError, match="0 or more"):
        group_means(np.zeros(2), np.array([0, 1]), num_groups=2, weights=np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="expected 2, one per group"):
        across_groups(GroupMeans(np.zeros(2), np.ones(2, int)), shares=(1,))


def test_choice_rates_are_what_was_built_in():
    """Of group 0, 3 of 4 images choose class 0; of group 1, 1 of 2; one image is of no group."""
    zimg = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 0, 2, 2]]
    groups = np.array([0, 0, 0, 0, 1, 1, -1])
    rates = choice_rates(zimg, np.eye(3, dtype=np.float32), groups, num_groups=3, scale=3.0)
    np.testing.assert_allclose(rates.chosen[:2], [[0.75, 0.25, 0], [0.5, 0, 0.5]], atol=1e-12)
    assert np.isnan(rates.chosen[2]).all()
    hit = np.exp(3) / (np.exp(3) + 2)
    miss = 1 / (np.exp(3) + 2)
    expected = rates.chosen[:2] * hit + (1 - rates.chosen[:2]) * miss
    np.testing.assert_allclose(rates.probability[:2], expected, atol=1e-6)
    np.testing.assert_allclose(parity_gaps(rates.chosen[:2]), [-0.25, -0.25, 0.5], atol=1e-12)
    np.testing.assert_allclose(parity_gaps(rates.chosen), [0.25, 0.25, 0.5], atol=1e-12)


def test_gaps_sum_to_zero_and_change_sign_with_the_groups():
    zimg, zcls = unit(normal(0, 60, 5)), unit(normal(1, 7, 5))
    zcls[3] = zcls[2]  # a tie for every image, which the two share
    groups = np.random.default_rng(2).integers(-1, 2, 60)
    shape = {"num_groups": 2, "scale": 8.0}
    one = choice_rates(zimg, zcls, groups, **shape)
    other = choice_rates(zimg, zcls, np.where(groups >= 0, 1 - groups, -1), **shape)
    for values, swapped in zip(one, other, strict=True):
        np.testing.assert_allclose(values.sum(axis=1), 1)
        np.testing.assert_allclose(parity_gaps(values).sum(), 0, atol=1e-12)
        np.testing.assert_allclose(parity_gaps(swapped), -parity_gaps(values), atol=1e-12)
    np.testing.assert_array_equal(one.chosen[:, 2], one.chosen[:, 3])
    blocks = choice_rates(zimg, zcls, groups, block_size=7, **shape)
    np.testing.assert_allclose(blocks, one, atol=1e-12)
    sharp = choice_rates(zimg, zcls, groups, num_groups=2, scale=1e6)
    np.testing.assert_allclose(sharp.probability, sharp.chosen, atol=1e-3)


def test_identical_groups_have_parity():
    zimg = unit(np.repeat(normal(0, 30, 5), 2, axis=0))
    rates = choice_rates(zimg, unit(normal(1, 4, 5)), np.tile([0, 1], 30), num_groups=2, scale=8.0)
    np.testing.assert_allclose(parity_gaps(rates.chosen), 0, atol=1e-12)


def people():
    """Twelve images, of which "unknown" and the empty one are in no group that is asked for."""
    who = ["man"] * 4 + ["woman"] * 4 + ["", "", "child", "child"]
    return ListSource(
        record(i, work=("cook", "judge")[i % 2], gender=g, tone=(1, 1, -1)[i % 3])
        for i, g in enumerate(who)
    )


def look_like(work):
    texts = {"cook": [1.0, 0, 0.1], "judge": [0, 1.0, 0]}
    return fixed_encode(np.stack([texts[w] for w in work]), texts)


def test_groups_are_read_from_columns():
    source = people()
    found = read_groups(source, "gender")
    assert found.names == ("child", "man", "woman")
    np.testing.assert_array_equal(found.counts, [2, 4, 4])
    found = read_groups(source, "gender", ("woman", "man", "robot"))
    np.testing.assert_array_equal(found.of_record, [1] * 4 + [0] * 4 + [-1] * 4)
    np.testing.assert_array_equal(found.counts, [4, 4, 0])
    found = read_groups(source, ("gender", "tone"), (("man", "woman"), (1, 5)))
    assert found.names == ("man_1", "man_5", "woman_1", "woman_5")
    np.testing.assert_array_equal(found.counts, [3, 0, 3, 0])  # images 2 and 5 have no tone
    found = read_groups(source, "tone", (-1, 1))  # a value that is not known makes no group
    np.testing.assert_array_equal(found.counts, [0, 8])
    found = read_groups(source, "tone", only={"gender": ("child",), "work": ("cook",)})
    np.testing.assert_array_equal(np.flatnonzero(found.of_record >= 0), [10])


def test_groups_whose_joined_names_would_collide_keep_their_own_metric():
    skin, age = ("mid_dark", "mid_dark", "mid", "mid"), ("old", "old", "dark_old", "dark_old")
    source = ListSource(
        record(i, work=work, skin=skin[i], age=age[i])
        for i, work in enumerate(("cook", "judge", "cook", "judge"))
    )
    encode = look_like(("cook", "judge", "judge", "cook"))
    metrics = make_groups(source, label="work", by=("skin", "age"))(encode).metrics
    of = {key: value for key, value in metrics.items() if key.startswith("acc_of_")}
    assert len(of) == metrics["groups"] == 4
    assert (of["acc_of_mid_dark & old"], of["acc_of_mid & dark_old"]) == (1, 0)


def test_groups_that_no_name_tells_apart_are_refused():
    names = ("x", "x_y", "x & y", "x | y"), ("z", "y_z", "y & z", "y | z")
    source = ListSource(record(i, first=names[0][i], second=names[1][i]) for i in range(4))
    with pytest.raises(ValueError, match=r"several groups, such as .*'x \| y \| z'"):
        read_groups(source, ("first", "second"))
    mixed = ListSource(record(i, code=code) for i, code in enumerate(("1", 1)))
    with pytest.raises(ValueError, match=r"several groups, such as .*'1'"):
        read_groups(mixed, "code", ("1", 1))


def test_columns_that_cannot_make_groups_are_refused():
    source = people()
    with pytest.raises(ValueError, match="'sex'"):
        read_groups(source, "sex")
    with pytest.raises(ValueError, match="no record is in a group"):
        read_groups(source, "gender", ("Man", "Woman"))
    with pytest.raises(ValueError, match="distinct values"):
        read_groups(source, "gender", ("man", "man"))
    with pytest.raises(ValueError, match="distinct values"):
        read_groups(source, "gender", "man")
    with pytest.raises(ValueError, match="a list of values for each"):
        read_groups(source, ("gender", "tone"), (("man", "woman"),))
    with pytest.raises(ValueError, match="a list of values"):
        read_groups(source, "gender", only={"work": "cook"})
    with pytest.raises(ValueError, match="no record of 12"):
        read_groups(source, "gender", only={"work": ("pilot",)})


def test_accuracy_by_group_is_what_was_built_in():
    source = people()
    work = list(source.columns["work"])
    work[0], work[10] = "judge", "judge"  # a man is taken for a judge, and a child
    evaluate = make_groups(
        source, label="work", by="gender", groups=("man", "woman", "robot"), shares=(3, 1, 9)
    )
    result = evaluate(look_like(work))
    expected = {
        "acc": 7 / 8,
        "acc_worst": 3 / 4,
        "acc_mean": 7 / 8,
        "acc_range": 1 / 4,
        "acc_adjusted": 13 / 16,
        "acc_of_man": 3 / 4,
        "acc_of_woman": 1.0,
        "acc_of_robot": np.nan,
        "groups": 3,
        "absent": 1,
        "images": 8,
        "masked": 4,
    }
    assert result.metrics == pytest.approx(expected, nan_ok=True)
    details = json.loads(json.dumps(result.details, allow_nan=False))
    assert details["worst"] == "man"
    assert [(g["name"], g["acc"], g["count"]) for g in details["by_group"]] == [
        ("man", 0.75, 4),
        ("woman", 1.0, 4),
        ("robot", None, 0),
    ]
    assert details["by_group"][0]["low"] < 0.75 < details["by_group"][0]["high"]


def test_one_group_of_all_is_zero_shot_classification():
    source = ListSource(record(i, work=f"Job No. {i % 7}", all=1) for i in range(60))
    texts = type("Texts", (dict,), {"__missing__": lambda _, t: normal(sum(map(ord, t)), 4)})()
    encode = fixed_encode(normal(0, 60, 4), texts)
    for canonical in (True, False):
        arguments = dict(label="work", templates=("{}", "A Picture: {}"), canonical=canonical)
        zeroshot = make_zeroshot(source, **arguments)(encode).metrics
        for top, key in ((1, "acc1"), (5, "acc5")):
            metrics = make_groups(source, by="all", top=top, **arguments)(encode).metrics
            assert metrics["acc"] == metrics["acc_worst"] == zeroshot[key] > 0


def test_images_of_unknown_class_count_nowhere():
    source = people()
    source.columns["work"][:3] = ""
    metrics = make_groups(source, label="work", by="gender")(look_like(["judge"] * 12)).metrics
    assert (metrics["images"], metrics["masked"]) == (7, 5)
    assert (metrics["acc_of_man"], metrics["acc_of_woman"]) == (1.0, 0.5)


def test_any_of_the_top_classes_is_right():
    source = people()
    encode = look_like(["judge"] * 12)
    one = make_groups(source, label="work", by="gender")(encode).metrics
    two = make_groups(source, label="work", by="gender", top=2)(encode).metrics
    assert (one["acc_worst"], two["acc_worst"]) == (0.5, 1.0)


def test_parity_of_a_model_that_sees_men_as_judges():
    source = people()
    encode = look_like(["judge"] * 3 + ["cook"] * 3 + ["judge"] * 2 + ["cook"] * 4)
    evaluate = make_parity(
        source, by="gender", groups=("man", "woman"), classes=("cook", "judge"), scale=200.0
    )
    result = evaluate(encode)
    assert result.metrics["parity_max"] == result.metrics["parity_mean"] == pytest.approx(0.25)
    assert result.metrics["parity_probability_max"] == pytest.approx(0.25, abs=1e-6)
    assert (result.metrics["images"], result.metrics["masked"]) == (8, 4)
    cook, judge = result.details["classes"]
    assert cook["rates"] == pytest.approx([0.25, 0.5])
    assert cook["gap"] == pytest.approx(0.25)  # p_f - p_m
    assert judge["gap"] == pytest.approx(-0.25)


def test_wrong_arguments_are_refused():
    source = people()
    with pytest.raises(ValueError, match="at least 1"):
        make_groups(source, label="work", by="gender", top=0)
    with pytest.raises(ValueError, match="2 shares"):
        make_groups(source, label="work", by="gender", shares=(1, 2))
    with pytest.raises(ValueError, match="not among"):
        make_groups(source, label="work", by="gender", classes=("cook", "pilot"))
    with pytest.raises(ValueError, match="two words"):
        make_parity(source, by="gender", classes=("cook",))
    with pytest.raises(ValueError, match="expected one of"):
        make_parity(source, by="gender", classes=("cook", "judge"), templates="poster")
