"""Laws of the resamples: what they do not depend on, how they shrink, and how often they are right."""

import numpy as np
import pytest

from bias_clip.evals.resampling import (
    both_draws,
    centered,
    difference,
    image_times,
    interval,
    kind_draws,
    mean_draws,
    reflected,
    sum_draws,
)

RNG = np.random.default_rng(0)


def accuracy(hits, groups, *, num=400, seed=0, clusters=None, names=("a", "b")):
    """Accuracy in all, by group, and the size of the gap."""
    columns = {"hit": hits, "all": np.ones(len(hits))}
    for g, name in enumerate(names):
        columns |= {f"hit/{name}": hits & (groups == g), f"all/{name}": groups == g}

    def value(t):
        means = [t[f"hit/{name}"] / t[f"all/{name}"] for name in names]
        found = {"acc": t["hit"] / t["all"], "gap": np.abs(means[1] - means[0])}
        return found | {f"acc_{name}": mean for name, mean in zip(names, means, strict=True)}

    drawn = sum_draws(columns, value, num=num, seed=seed, clusters=clusters)
    return reflected(drawn, ("gap",))


HITS, GROUPS = RNG.random(300) < 0.4, np.arange(300) % 2


def test_permuting_the_items_changes_no_value_and_no_interval_beyond_noise():
    order = RNG.permutation(300)
    one, two = accuracy(HITS, GROUPS, num=4000), accuracy(HITS[order], GROUPS[order], num=4000)
    for key in one.whole:
        a, b = interval(one, key), interval(two, key)
        assert a.value == pytest.approx(b.value)
        assert a.high - a.low == pytest.approx(b.high - b.low, rel=0.1)


def test_renaming_the_groups_renames_the_numbers():
    one, two = accuracy(HITS, GROUPS), accuracy(HITS, 1 - GROUPS, names=("b", "a"))
    for key in one.whole:
        assert interval(one, key) == pytest.approx(interval(two, key), abs=0.02, nan_ok=True) or (
            one.whole[key] == two.whole[key]
        )


@pytest.mark.parametrize("times", [4, 9])
def test_duplicated_data_have_the_same_value_and_a_narrower_interval(times):
    one = interval(accuracy(HITS, GROUPS, num=4000), "acc")
    many = accuracy(np.tile(HITS, times), np.tile(GROUPS, times), num=4000)
    more = interval(many, "acc")
    assert more.value == pytest.approx(one.value)
    assert (one.high - one.low) / (more.high - more.low) == pytest.approx(times**0.5, rel=0.1)


def test_duplicates_in_one_cluster_do_not_narrow_the_interval():
    one = interval(accuracy(HITS, GROUPS, num=4000), "acc")
    hits, groups, who = np.tile(HITS, 4), np.tile(GROUPS, 4), np.tile(np.arange(300), 4)
    more = interval(accuracy(hits, groups, num=4000, clusters=who), "acc")
    assert more.num_items == 300
    assert more.high - more.low == pytest.approx(one.high - one.low, rel=0.1)


@pytest.mark.parametrize("key", ["acc", "gap"])
def test_an_unbiased_construction_is_in_its_interval_95_times_of_a_hundred(key):
    inside = 0
    for seed in range(200):
        hits = np.random.default_rng(seed).random(300) < 0.4
        found = interval(accuracy(hits, GROUPS, num=300, seed=seed), key)
        truth = {"acc": 0.4, "gap": 0.0}[key]
        inside += found.low <= truth <= found.high
    assert 0.90 <= inside / 200 <= 0.99


def test_p_of_two_equal_models_is_uniform_enough():
    small = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        one, two = (accuracy(rng.random(300) < 0.4, GROUPS, num=300, seed=1) for _ in "ab")
        small += difference(one, two, "acc").p < 0.05
    assert 0.01 <= small / 200 <= 0.09


def test_many_resamples_are_not_needed_for_a_small_p():
    two = accuracy(np.ones(300, bool), GROUPS, num=100)
    assert difference(accuracy(HITS, GROUPS, num=100), two, "acc").p < 1e-6


def test_kinds_have_the_interval_of_their_items():
    def value(counts):
        return {"acc": counts[:, 1] / counts.sum(axis=1)}

    found = interval(kind_draws(HITS.astype(int), value, num_kinds=2, num=4000), "acc")
    other = interval(accuracy(HITS, GROUPS, num=4000), "acc")
    assert found.value == other.value
    assert found.low == pytest.approx(other.low, abs=0.01)


def test_kinds_of_clusters_have_the_interval_of_the_clusters():
    def value(counts):
        return {"acc": counts[:, 1] / counts.sum(axis=1)}

    clusters = np.arange(len(HITS)) // 3
    hits = HITS[3 * clusters]  # equal inside a cluster
    draws = kind_draws(hits.astype(int), value, num_kinds=2, num=4000, clusters=clusters)
    other = interval(accuracy(hits, GROUPS, num=4000, clusters=clusters), "acc")
    assert draws.units == other.num_items == 100
    assert interval(draws, "acc").low == pytest.approx(other.low, abs=0.01)
    assert interval(draws, "acc").high == pytest.approx(other.high, abs=0.01)


def test_both_is_wider_than_each_and_centers_on_the_value():
    words = mean_draws({"acc": RNG.normal(0.4, 0.1, 20)}, num=400)
    items = accuracy(HITS, GROUPS, num=400)
    both = interval(both_draws(items, words._replace(whole={"acc": items.whole["acc"]})), "acc")
    widths = [np.ptp(interval(d, "acc")[1:3]) for d in (items, words)]
    assert np.ptp(both[1:3]) == pytest.approx(np.hypot(*widths), rel=0.15)


def test_few_units_have_a_reason_and_no_interval():
    one = accuracy(HITS[:1], GROUPS[:1])
    assert interval(one, "acc").note == "not enough items: 1 of them"
    words = mean_draws({"x": np.array([1.0, np.nan])}, num=10)
    assert interval(words, "x").note == "not enough items: 1 to resample"


def test_centered_resamples_have_the_value_as_their_mean():
    draws = accuracy(HITS, GROUPS)
    draws = centered(draws._replace(whole=draws.whole | {"acc": 0.9}))
    assert draws.drawn["acc"].mean() == pytest.approx(0.9)


def test_images_of_a_cluster_stand_equally_often():
    times = image_times(6, num=50, clusters=np.array([0, 0, 1, 1, 2, 2]))
    np.testing.assert_array_equal(times[:, ::2], times[:, 1::2])
    assert (times.sum(axis=1) == 6).all()


def test_models_of_other_items_are_not_compared():
    with pytest.raises(ValueError, match="300 and 200 items"):
        difference(accuracy(HITS, GROUPS), accuracy(HITS[:200], GROUPS[:200]), "acc")
