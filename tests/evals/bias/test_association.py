import json

import numpy as np
import pytest

from bias_clip.evals.bias.association import (
    PAIRS,
    Preferences,
    association,
    make_association,
    make_representation,
    pair_preferences,
)
from bias_clip.evals.bias.scores import pair_gaps, preference, preference_probability
from bias_clip.evals.ranking import unit
from tests.evals.cases import ListSource, fixed_encode, normal, record


def random_case(seed=0, n=80):
    groups = np.random.default_rng(seed).integers(-1, 2, n)
    return unit(normal(seed, n, 5)), unit(normal(seed + 1, 3, 2, 5)), groups


def test_preferences_of_pairs_are_those_of_single_prompts_whatever_the_block():
    zimg, prompts, _ = random_case()
    one = pair_preferences(zimg, prompts, scale=9.0)
    for i, pair in enumerate(prompts):
        both = np.broadcast_to(pair, (len(zimg), 2, 5))
        np.testing.assert_array_equal(one.won[:, i], preference(zimg, both))
        expected = preference_probability(zimg, both, scale=9.0)
        np.testing.assert_array_equal(one.probability[:, i], expected)
    np.testing.assert_array_equal(one, pair_preferences(zimg, prompts, scale=9.0, block_size=7))


def test_gaps_are_the_differences_that_were_built_in():
    """Of group 1, 9 of 10 prefer the second prompt; of group 0, 3 of 10; the unknown ones all do."""
    groups = np.repeat([0, 1, -1], [10, 10, 5])
    won = np.repeat([1.0, 0.0, 1.0, 0.0, 1.0], [3, 7, 9, 1, 5])[:, None]
    got = association(Preferences(won, 0.5 * won), groups)
    np.testing.assert_allclose(got.won.mean, [[0.3], [0.9]], atol=1e-15)
    np.testing.assert_allclose(got.gap, [0.6], atol=1e-15)
    np.testing.assert_allclose(got.probability, [0.3], atol=1e-15)
    assert np.isnan(association(Preferences(won, won), groups, min_count=11).gap).all()
    assert np.isnan(association(Preferences(won, won), np.ones(25, int)).gap).all()


def test_gaps_equal_those_of_pairs_of_roles():
    zimg, _, groups = random_case()
    zroles, keep = unit(normal(7, 2, 5)), groups >= 0
    got = association(pair_preferences(zimg, zroles[None], scale=1.0), groups).gap
    expected = pair_gaps(zimg[keep], zroles, groups[keep])[1, 0]
    np.testing.assert_allclose(got, [expected], atol=1e-6)  # pair_gaps takes means in float32
    assert abs(expected) > 0.1


def test_swaps_change_the_sign_and_identical_groups_have_no_gap():
    zimg, prompts, groups = random_case()
    one = association(pair_preferences(zimg, prompts, scale=9.0), groups)
    prompts_swapped = association(pair_preferences(zimg, prompts[:, ::-1], scale=9.0), groups)
    other = np.where(groups >= 0, 1 - groups, -1)
    groups_swapped = association(pair_preferences(zimg, prompts, scale=9.0), other)
    for swapped in (prompts_swapped, groups_swapped):
        np.testing.assert_allclose(swapped.gap, -one.gap, atol=1e-12)
        np.testing.assert_allclose(swapped.probability, -one.probability, atol=1e-12)
    assert np.abs(one.gap).max() > 0
    twice = pair_preferences(np.repeat(zimg, 2, axis=0), prompts, scale=9.0)
    none = association(twice, np.tile([0, 1], len(zimg)))
    np.testing.assert_allclose(none.gap, 0, atol=1e-12)
    np.testing.assert_allclose(none.probability, 0, atol=1e-12)


def test_scale_changes_probabilities_and_no_gap():
    zimg, prompts, groups = random_case()
    low, high = (association(pair_preferences(zimg, prompts, scale=s), groups) for s in (1.0, 1e6))
    np.testing.assert_array_equal(low.gap, high.gap)
    np.testing.assert_allclose(high.probability, high.gap, atol=1e-3)
    assert np.abs(low.probability).max() < np.abs(high.probability).max()


WORDS = {
    "woman": [1.0, 0, 0.1],
    "man": [0, 1.0, 0],
    "lady": [0.9, 0, 0.3],
    "nurse": [1.0, 0, 0],
    "doctor": [0, 1.0, 0],
}


def people():
    """Ten women, ten men, and five images of nobody."""
    who = ["woman"] * 10 + ["man"] * 10 + ["none"] * 5
    return ListSource(record(i, gender=g) for i, g in enumerate(who))


def look_like(*counts):
    """For each word in turn, so many images that look like it."""
    words = [w for w, n in counts for _ in range(n)]
    return fixed_encode(np.array([WORDS[w] for w in words]), WORDS)


def test_representation_is_the_distance_from_a_half():
    source = people()
    encode = look_like(("woman", 20), ("man", 4), ("woman", 1))
    of_all = make_representation(source, scale=1e3)(encode).metrics
    assert of_all["preference"] == of_all["preference_probability"] == pytest.approx(4 / 25)
    assert of_all["representation"] == pytest.approx(0.34)
    assert of_all["images"] == 25
    nobody = make_representation(source, only={"gender": ("none",)})(encode).metrics
    assert nobody["preference"] == 0.8
    assert nobody["representation"] == pytest.approx(0.3)
    assert nobody["images"] == 5
    assert nobody["preference_low"] < 0.8 < nobody["preference_high"]
    assert 0 < nobody["representation_probability"] < nobody["representation"]


def test_swapping_the_words_gives_one_minus_the_preference():
    encode = fixed_encode(normal(0, 25, 3), WORDS)
    one = make_representation(people())(encode).metrics
    other = make_representation(people(), words=("man", "woman"))(encode).metrics
    for key in ("preference", "preference_probability"):
        assert other[key] == pytest.approx(1 - one[key])
    assert other["representation"] == pytest.approx(one["representation"])
    same = make_representation(people(), words=("man", "man"))(encode).metrics
    assert (same["preference"], same["representation"], same["ties"]) == (0.5, 0, 1)


def test_synonyms_are_one_word():
    encode = fixed_encode(normal(0, 25, 3), WORDS)
    mean = unit(unit(np.array([WORDS["woman"], WORDS["lady"]])).mean(axis=0))
    both = make_representation(people(), words=(("woman", "lady"), "man"))(encode)
    expected = make_representation(people(), words=("mean", "man"))(
        fixed_encode(normal(0, 25, 3), WORDS | {"mean": mean})
    )
    assert both.metrics == pytest.approx(expected.metrics)
    assert both.details["groups"] == ["woman, lady", "man"]


def test_association_of_a_model_that_sees_women_as_nurses():
    encode = look_like(("nurse", 9), ("doctor", 1), ("nurse", 3), ("doctor", 7), ("nurse", 5))
    evaluate = make_association(
        people(),
        by="gender",
        groups=("man", "woman"),
        pairs=(("nurse", "doctor"), ("doctor", "nurse")),
        scale=1e3,
    )
    result = evaluate(encode)
    assert result.metrics == pytest.approx(
        {
            "pairs_mean": 0.6,
            "pairs_max": 0.6,
            "pairs_signed": 0,
            "pairs_probability_mean": 0.6,
            "pairs_probability_max": 0.6,
            "pairs": 2,
            "groups": 2,
            "absent": 0,
            "images": 20,
            "masked": 5,
        }
    )
    details = json.loads(json.dumps(result.details, allow_nan=False))
    assert details["sign"] == "woman minus man"
    pair = details["pairs"][0]
    assert (pair["first"], pair["second"]) == ("nurse", "doctor")
    assert pair["gap"] == pytest.approx(0.6)  # p_f - p_m of the first word
    assert [(g["name"], g["preference"], g["count"]) for g in pair["by_group"]] == [
        ("man", 0.3, 10),
        ("woman", 0.9, 10),
    ]


def test_too_few_images_of_a_group_are_no_number():
    encode = fixed_encode(normal(0, 25, 3), WORDS)
    arguments = dict(by="gender", pairs=(("nurse", "doctor"),))
    few = make_association(people(), groups=("man", "woman"), min_count=11, **arguments)
    assert np.isnan(few(encode).metrics["pairs_max"])
    absent = make_association(people(), groups=("man", "robot"), **arguments)(encode)
    assert np.isnan(absent.metrics["pairs_max"])
    assert absent.metrics["absent"] == 1
    json.dumps(absent.details, allow_nan=False)
    assert absent.details["pairs"][0]["gap"] is None


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="expected two"):
        make_representation(people(), words=("woman",))
    with pytest.raises(ValueError, match="no record of 25"):
        make_representation(people(), only={"gender": ("robot",)})
    with pytest.raises(ValueError, match="two values of 'gender'"):
        make_association(people(), by="gender", groups=("man",))
    with pytest.raises(ValueError, match="expected some"):
        make_association(people(), by="gender", groups=("man", "woman"), pairs=("nurse", "doctor"))
    with pytest.raises(ValueError, match="templates"):
        make_association(people(), by="gender", groups=("man", "woman"), templates=("a {} {}",))


def test_the_usual_pairs_are_five_of_ten_words():
    assert len(PAIRS) == 5
    assert len({word for pair in PAIRS for word in pair}) == 10
