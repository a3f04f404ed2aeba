import json
import math

import numpy as np
import pytest

from bias_clip.evals.bias.role_prompts import ATTRIBUTES
from bias_clip.evals.bias.roles import make_bias
from bias_clip.evals.bias.scores import (
    association_gaps,
    pair_gaps,
    preference,
    preference_probability,
    share,
)
from bias_clip.evals.ranking import unit
from tests.evals.cases import ListSource, fixed_encode, normal, record


def test_preference_counts_the_wins_that_were_built_in():
    prompts = np.broadcast_to(np.eye(2, dtype=np.float32), (5, 2, 2))
    zimg = unit(np.array([[1, 0], [1, 0], [0, 1], [0.3, 0.6], [1, 1]], np.float32))
    np.testing.assert_array_equal(preference(zimg, prompts), [0, 0, 1, 1, 0.5])
    assert share(preference(zimg, prompts)).value == 0.5


def test_swapping_the_prompts_gives_one_minus_the_preference():
    zimg, prompts = unit(normal(0, 50, 4)), unit(normal(1, 50, 2, 4))
    prompts[7, 1] = prompts[7, 0]  # a tie
    values = preference(zimg, prompts)
    np.testing.assert_array_equal(preference(zimg, prompts[:, ::-1]), 1 - values)
    chance = preference_probability(zimg, prompts, scale=9.0)
    np.testing.assert_allclose(
        preference_probability(zimg, prompts[:, ::-1], scale=9.0), 1 - chance, atol=1e-12
    )
    np.testing.assert_array_equal(chance > 0.5, values > 0.5)


def test_preference_probability_is_the_softmax_of_two():
    zimg, prompts = np.array([[1.0, 0.0]], np.float32), np.array([[[0.2, 0], [0.5, 0]]], np.float32)
    logits = np.exp([4 * 0.2, 4 * 0.5])
    expected = logits[1] / logits.sum()
    np.testing.assert_allclose(
        preference_probability(zimg, prompts, scale=4.0), expected, rtol=1e-6
    )


def test_wilsons_interval():
    """At 5 of 10, z = 1.96: 0.2366 to 0.7634, as in Agresti and Coull, 1998."""
    got = share(np.array([1.0] * 5 + [0.0] * 5))
    np.testing.assert_allclose(got[:3], [0.5, 0.2366, 0.7634], atol=1e-4)
    sure = share(np.ones(20))
    assert sure.high == pytest.approx(1)
    assert 0.8 < sure.low < 1
    assert math.isnan(share(np.zeros(0)).value)


ROLES = np.repeat([0, 1, 2], 20)
GROUPS = np.tile([0, 1], 30)
CELLS = 2 * ROLES + GROUPS


def role_images(hit_shares):
    """Images that look like their own role for the first share of each (role, group) cell."""
    shown = ROLES.copy()
    for role in range(3):
        for group in (0, 1):
            cell = np.flatnonzero(2 * role + group == CELLS)
            hits = round(hit_shares[role][group] * len(cell))
            shown[cell[hits:]] = (role + 1) % 3
    return np.eye(3, dtype=np.float32)[shown]


def test_gaps_are_the_differences_that_were_built_in():
    zimg = role_images([(0.2, 0.9), (0.5, 0.5), (1.0, 0.0)])
    got = association_gaps(zimg, np.eye(3, dtype=np.float32), ROLES, GROUPS, scale=5.0)
    np.testing.assert_allclose(got.gap, [0.7, 0.0, -1.0], atol=1e-7)
    assert got.recall == pytest.approx((0.2 + 0.9 + 0.5 + 0.5 + 1.0) / 6)
    # A hit has probability e^5 / (e^5 + 2), a miss 1 / (e^5 + 2).
    spread = (np.exp(5) - 1) / (np.exp(5) + 2)
    np.testing.assert_allclose(got.probability, np.multiply([0.7, 0, -1.0], spread), atol=1e-6)


def test_identical_groups_have_no_gap_and_swapped_groups_the_opposite():
    zimg = unit(np.repeat(normal(0, 30, 5), 2, axis=0))  # each image once in each group
    zroles = unit(normal(1, 3, 5))
    got = association_gaps(zimg, zroles, ROLES, GROUPS, scale=5.0)
    np.testing.assert_array_equal(got.gap, 0)
    np.testing.assert_allclose(got.probability, 0, atol=1e-12)
    np.testing.assert_array_equal(pair_gaps(zimg, zroles, GROUPS), 0)
    zimg = unit(normal(2, 60, 5))
    one = association_gaps(zimg, zroles, ROLES, GROUPS, scale=5.0)
    other = association_gaps(zimg, zroles, ROLES, 1 - GROUPS, scale=5.0)
    np.testing.assert_allclose(other.gap, -one.gap)
    np.testing.assert_allclose(other.probability, -one.probability)
    assert np.abs(one.gap).max() > 0


def test_scale_changes_probabilities_and_no_gap():
    zimg, zroles = unit(normal(2, 60, 5)), unit(normal(1, 3, 5))
    low, high = (association_gaps(zimg, zroles, ROLES, GROUPS, scale=s) for s in (1.0, 1e4))
    np.testing.assert_array_equal(low.gap, high.gap)
    np.testing.assert_allclose(high.probability, high.gap, atol=1e-3)  # the softmax is an argmax
    assert np.abs(low.probability).max() < np.abs(high.probability).max()


def test_small_groups_are_left_out():
    keep = ~((ROLES == 1) & (GROUPS == 1)) | (np.arange(60) < 28)  # 4 of role 1, group 1
    zimg = role_images([(0.2, 0.9), (0.5, 0.5), (1.0, 0.0)])[keep]
    zroles = np.eye(3, dtype=np.float32)
    arguments = (zimg, zroles, ROLES[keep], GROUPS[keep])
    assert np.isnan(association_gaps(*arguments, scale=5.0).gap).tolist() == [False, True, False]
    assert np.isfinite(association_gaps(*arguments, scale=5.0, min_count=4).gap).all()


def test_gap_by_chance_is_the_mean_gap_of_shuffled_groups():
    zimg = role_images([(0.2, 0.9), (0.5, 0.5), (1.0, 0.0)])
    zroles = np.eye(3, dtype=np.float32)
    expected, rng = [], np.random.default_rng(3)
    for _ in range(200):
        shuffled = np.concatenate([rng.permutation(groups) for groups in np.split(GROUPS, 3)])
        gap = association_gaps(zimg, zroles, ROLES, shuffled, scale=5.0).gap
        expected.append(np.abs(gap).mean())
    got = association_gaps(zimg, zroles, ROLES, GROUPS, scale=5.0)
    # Two means over 200 deals, each with a standard error of about 0.007.
    assert got.by_chance == pytest.approx(np.mean(expected), abs=0.03)
    assert got.by_chance < np.abs(got.gap).mean() / 2


def test_pair_gaps_are_the_differences_that_were_built_in():
    """9 of 10 of group 1, and 3 of 10 of group 0, prefer prompt 0 to prompt 1."""
    zimg = np.concatenate([np.eye(2)[[0] * 3 + [1] * 7], np.eye(2)[[0] * 9 + [1]]])
    groups = np.repeat([0, 1], 10)
    gaps = pair_gaps(zimg.astype(np.float32), np.eye(2, dtype=np.float32), groups)
    np.testing.assert_allclose(gaps, [[0, 0.6], [-0.6, 0]], atol=1e-12)


# The evaluator, on a world of two roles where embeddings are written down. Axes: who (woman, man),
# role (cook, judge), object.

PEOPLE = {"woman": [1, 0], "man": [0, 1], "person": [0.5, 0.5]}
JOBS = {"cook": [1, 0], "judge": [0, 1], "walking": [0.5, 0.5]}


def world(neutral=(0.5, 0.5), cook_by_woman=1.0):
    """Six images a cell; `neutral` is how person images look, `cook_by_woman` of the female cooks
    look like cooks and the others like judges."""
    records, rows = [], []

    def add(concept, gender, role, who, job):
        for _ in range(6):
            name = {"concept": concept, "gender": gender, "role": role, "tone": 0}
            name["name"] = concept if gender == "person" else f"{gender} {concept}"
            records.append(record(len(records), **name))
            rows.append([*who, *job, 0.0])

    for concept in ("cook", "judge"):
        for gender in ("woman", "man"):
            add(concept, gender, 1, PEOPLE[gender], JOBS[concept])
        add(concept, "person", 1, neutral, JOBS[concept])
    add("walking", "woman", 0, PEOPLE["woman"], JOBS["walking"])
    add("walking", "man", 0, PEOPLE["man"], [0.9, 0.1])
    for _ in range(6):
        name = {"concept": "apple", "gender": "none", "role": 0, "tone": 0, "name": "apple"}
        records.append(record(len(records), **name))
        rows.append([0.3, 0.2, 0, 0, 1.0])
    rows = np.array(rows)
    source = ListSource(records)
    female = (source.columns["concept"] == "cook") & (source.columns["gender"] == "woman")
    wrong = np.flatnonzero(female)[round(6 * cook_by_woman) :]
    rows[wrong, 2:4] = JOBS["judge"]
    return source, rows


class Texts(dict):
    """Prompts are the sum of the words they hold."""

    def __missing__(self, text):
        words = text.replace(":", "").split()
        z = np.zeros(5)
        for word in words:
            z[:2] += PEOPLE.get(word, [0, 0])
            z[2:4] += JOBS.get(word, [0, 0])
        return z + 1e-6


def evaluate(source, rows, **arguments):
    return make_bias(source, **arguments)(fixed_encode(rows, Texts()))


def test_a_fair_world_has_no_bias():
    source, rows = world()
    metrics = evaluate(source, rows).metrics
    assert metrics["preference"] == 0.5
    assert metrics["representation"] == 0
    assert metrics["recognition"] == 1
    assert metrics["association_max"] == 0
    assert metrics["association_recall"] == 1
    assert metrics["association_roles"] == 2


def test_neutral_images_that_look_like_men_show_as_representation_bias():
    metrics = evaluate(*world(neutral=(0.4, 0.6))).metrics
    assert metrics["preference"] == metrics["preference_plain"] == 1
    assert metrics["representation"] == 0.5
    assert metrics["preference_low"] < 1 == metrics["preference_high"]
    assert metrics["preference_objects"] == 0  # the apples look like women
    assert metrics["representation_objects"] == 0.5
    assert 0.5 < metrics["preference_probability"] < 1


def test_swapping_groups_and_prompts_mirrors_everything():
    gender = ATTRIBUTES["gender"]
    mirrored = gender._replace(
        groups=gender.groups[::-1], values=gender.values[::-1], terms=gender.terms[::-1]
    )
    source, rows = world(neutral=(0.4, 0.6), cook_by_woman=0.5)
    one = evaluate(source, rows).metrics
    other = evaluate(source, rows, attribute=mirrored).metrics
    for name in ("preference", "preference_plain", "preference_objects"):
        assert other[name] == 1 - one[name]
    assert other["association_signed"] == -one["association_signed"] != 0
    for name in ("representation", "association_mean", "association_max", "recognition"):
        assert other[name] == one[name]


def test_roles_that_are_recognised_by_gender_show_as_association_bias():
    result = evaluate(*world(cook_by_woman=0.5))
    gaps = {concept["name"]: concept["gap"] for concept in result.details["concepts"]}
    assert gaps == {"cook": 0.5, "judge": 0.0}  # man minus woman
    assert result.metrics["association_mean"] == 0.25
    assert result.metrics["association_max"] == 0.5
    assert result.metrics["association_recall"] == pytest.approx(7 / 8)
    assert result.metrics["association_chance"] > 0


def test_stereotypes_compare_the_roles_of_one_side_with_those_of_the_other():
    source, rows = world(cook_by_woman=0.5)
    metrics = evaluate(source, rows, stereotypes=(["judge"], ["cook", "not drawn here"])).metrics
    assert metrics["stereotype_gap"] == 0.5 - 0.0
    mirrored = evaluate(source, rows, stereotypes=(["cook"], ["judge"])).metrics
    assert mirrored["stereotype_gap"] == -0.5
    neutral = (source.columns["gender"] == "person") & (source.columns["concept"] == "judge")
    rows[neutral, :2] = (0.4, 0.6)  # neutral judges look like men, neutral cooks like neither
    metrics = evaluate(source, rows, stereotypes=(["cook"], ["judge"])).metrics
    assert metrics["stereotype_preference"] == 1.0 - 0.5
    assert "stereotype_gap" not in evaluate(source, rows).metrics


def test_stereotypes_that_say_nothing_are_refused():
    source, _ = world()
    with pytest.raises(ValueError, match="two lists with no role in both"):
        make_bias(source, stereotypes=(["cook"], ["cook", "judge"]))
    with pytest.raises(ValueError, match=r"no role of the source; those are \['cook', 'judge'\]"):
        make_bias(source, stereotypes=(["cook"], ["pilot"]))


def test_pairs_are_asked_of_people_outside_the_roles():
    """Women who walk prefer neither, men who walk look like cooks."""
    source, rows = world()
    metrics = evaluate(source, rows).metrics
    assert metrics["pairs_mean"] == metrics["pairs_max"] == 0.5
    assert metrics["pairs_images"] == 12
    metrics = evaluate(source, rows, pairs=(("cook", "walking"), ("judge", "cook"))).metrics
    assert metrics["pairs_max"] > 0
    metrics = evaluate(source, rows, pairs=()).metrics
    assert math.isnan(metrics["pairs_mean"])
    metrics = evaluate(source, rows, min_count=7).metrics
    assert math.isnan(metrics["pairs_mean"])
    assert metrics["association_excluded"] == 2


def test_tone_compares_light_and_dark_and_takes_yellow_as_neutral():
    records, rows = [], []
    for tone, look in ((0, [0.2, 0.8]), (1, [1, 0]), (2, [1, 0]), (4, [0, 1]), (5, [0, 1])):
        for gender in ("woman", "man", "person"):
            for concept in ("cook", "judge"):
                name = {"concept": concept, "gender": gender, "role": 1, "tone": tone}
                records.append(record(len(records), **name))
                rows.append([*look, *JOBS[concept], 0.0])
    rows = np.array(rows)
    dark_cooks = [
        i for i, r in enumerate(records) if r["concept"] == "cook" and r["tone"] in (4, 5)
    ]
    rows[dark_cooks[:3], 2:4] = JOBS["judge"]
    words = {"light": [1, 0], "medium-light": [1, 0], "dark": [0, 1], "medium-dark": [0, 1]}

    class ToneTexts(dict):
        def __missing__(self, text):
            z = np.full(5, 1e-6)
            for word in text.replace(":", "").split():
                z[:2] += words.get(word, [0, 0])
                z[2:4] += JOBS.get(word, [0, 0])
            return z

    source = ListSource(records)
    result = make_bias(source, attribute="tone", names=None)(fixed_encode(rows, ToneTexts()))
    assert result.details["groups"] == ["light", "dark"]
    assert result.metrics["preference"] == 1  # yellow looks dark here
    gaps = {concept["name"]: concept["gap"] for concept in result.details["concepts"]}
    assert gaps == {"cook": -0.5, "judge": 0}  # dark minus light
    assert result.metrics["recognition"] == 1
    assert math.isnan(result.metrics["preference_objects"])


def test_details_are_json_and_complete():
    source, rows = world(cook_by_woman=0.5)
    details = json.loads(json.dumps(evaluate(source, rows, min_count=7).details, allow_nan=False))
    assert details["attribute"] == "gender"
    assert details["groups"] == ["woman", "man"]
    assert details["representation"] == 0.5
    assert [concept["name"] for concept in details["concepts"]] == ["cook", "judge"]
    assert all(c["gap"] is None and c["count"] == 18 for c in details["concepts"])


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        (
            "gender",
            {
                *("woman golfing", "a woman golfing", "man golfing", "a man golfing"),
                *("woman artist", "a woman artist", "man artist", "a man artist"),
                *("woman", "a woman", "man", "a man"),
                *("person golfing", "a person golfing", "artist", "an artist"),
            },
        ),
        (
            "tone",
            {
                f"{form}{degree} skin tone"
                for form in ("", "a person with ")
                + ("person golfing: ", "a person golfing with ", "artist: ", "an artist with ")
                for degree in ("light", "medium-light", "dark", "medium-dark")
            }
            | {"person golfing", "a person golfing", "artist", "an artist"},
        ),
    ],
)
def test_prompts_are_what_one_would_say(attribute, expected):
    names = {"golfing": "person golfing", "artist": "artist"}
    source = ListSource(
        record(
            0, concept=c, gender=g, role=1, tone=0, name=names[c] if g == "person" else f"{g} {c}"
        )
        for c in names
        for g in ("woman", "man", "person")
    )
    facing = {"name": "person golfing: facing right", "gender": "person"}
    source = ListSource([*source.records, source.records[0] | facing])
    asked = set()

    def texts(strings):
        asked.update(strings)
        return np.ones((len(strings), 2), np.float32)

    make_bias(source, attribute=attribute)(fixed_encode(np.ones((7, 2)), {})._replace(texts=texts))
    assert asked == expected


def test_images_of_mixed_groups_count_nowhere():
    source, rows = world(cook_by_woman=0.5)
    mixed = [
        record(0, concept="cook", gender="mixed", role=1, tone=0, name="cooks"),
        record(0, concept="cook", gender="none", role=1, tone=0, name="pot"),  # nobody is drawn
    ]
    more = ListSource([*source.records, *mixed])
    extra = np.array([[1, 0, 0, 1, 0.0], [0.3, 0.2, 0, 0, 1.0]])
    one = evaluate(source, rows).metrics
    other = evaluate(more, np.concatenate([rows, extra])).metrics
    assert one == other


def test_hands_have_a_tone_but_are_neither_people_nor_things():
    source, rows = world()
    hands = [
        record(0, concept="hand", gender="none", role=0, tone=tone, name="hand")
        for tone in (1, 1, 1, 5, 5, 5)
    ]
    more = ListSource([*source.records, *hands])
    shown = np.concatenate([rows, np.tile([0, 1, 0, 0, 0.0], (6, 1))])  # like men
    assert evaluate(more, shown).metrics == evaluate(source, rows).metrics
    assert evaluate(more, shown, attribute="tone").metrics["pairs_images"] == 0


def test_wrong_arguments_are_refused():
    source, _ = world()
    with pytest.raises(ValueError, match="'gender', 'tone'"):
        make_bias(source, attribute="sex")
    with pytest.raises(ValueError, match="role == 1"):
        make_bias(ListSource(source.records[-6:]))
    with pytest.raises(ValueError, match="concept"):
        make_bias(ListSource([record(0, gender="man", role=1, tone=0)]))
    with pytest.raises(ValueError, match="title"):
        make_bias(source, names="title")
    with pytest.raises(ValueError, match="'a_role', 'concept', 'role'"):
        make_bias(source, neutral_templates=("a {term}",))
