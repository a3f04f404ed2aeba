import json
from pathlib import Path

import numpy as np
import pytest

from bias_clip.evals.bias.skew import cut_offs, make_skew, ranking_skews, target_shares
from bias_clip.evals.ranking import unit
from tests.evals.cases import ListSource, fixed_encode, normal, record

GOLDEN = Path(__file__).parents[2] / "golden"
TARGETS = ("uniform", "share")  # eq_opp and dem_par in the files


def golden(k):
    return np.load(GOLDEN / f"metric_skew_{k}.npz")


def both(case, scores, ks):
    """max_skew and ndkl, of shape [k, p, 2] as in the files."""
    labels = case["labels"]
    skews = [ranking_skews(scores, labels, target_shares(labels, t), ks=ks) for t in TARGETS]
    stacked = [np.stack([getattr(s, name).T for s in skews], -1) for name in ("max_skew", "ndkl")]
    return stacked[0], stacked[1]


@pytest.mark.parametrize("k", [0, 1])
def test_maxskew_and_ndkl_equal_berg_et_al(k):
    case = golden(k)
    maxskew, ndkl = both(case, case["scores"], case["top_n"].tolist())
    np.testing.assert_allclose(maxskew, case["maxskew"], atol=1e-9, rtol=0)
    np.testing.assert_allclose(ndkl, case["ndkl"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("k", [0, 1])
def test_ties_at_the_cut_are_all_kept_as_by_berg_et_al(k):
    case = golden(k)
    maxskew, ndkl = both(case, case["tied_scores"][None], case["top_n"].tolist())
    got = np.concatenate([maxskew[:, 0], ndkl[:, 0]], axis=1)
    np.testing.assert_allclose(got, case["tied_metrics"], atol=1e-9, rtol=0)
    assert (case["tied_rows_kept"] > case["top_n"]).any()  # the files do visit that corner


@pytest.mark.parametrize("k", [0, 1])
def test_means_over_prompts_and_shares_as_cuts_equal_berg_et_al(k):
    case = golden(k)
    given = zip(case["eval_ranking_topn"], case["eval_ranking_is_fraction"], strict=True)
    ks = cut_offs([float(x) if share else int(x) for x, share in given], len(case["labels"]))
    maxskew, ndkl = both(case, case["scores"], ks)
    got = np.concatenate([maxskew.mean(axis=1), ndkl.mean(axis=1)], axis=1)
    np.testing.assert_allclose(got, case["eval_ranking"], atol=1e-9, rtol=0)


def ranking(groups):
    """Scores that rank the candidates as they are listed."""
    return -np.arange(len(groups), dtype=np.float64)[None]


def test_exactly_the_wanted_shares_have_no_skew():
    groups = np.array([0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1])  # of the first six 1/3 and 2/3
    got = ranking_skews(ranking(groups), groups, np.array([1 / 3, 2 / 3]), ks=(3, 6, 4))
    np.testing.assert_allclose(got.max_skew[0, :2], 0, atol=1e-12)
    np.testing.assert_allclose(got.min_skew[0, :2], 0, atol=1e-12)
    np.testing.assert_allclose(got.skew[0, :2], 0, atol=1e-12)
    assert got.max_skew[0, 2] == pytest.approx(np.log(0.5 / (1 / 3)))
    assert got.min_skew[0, 2] == pytest.approx(np.log(0.5 / (2 / 3)))


def test_ndkl_falls_towards_zero_for_a_ranking_of_constant_shares():
    values = []
    for n in (10, 100, 1000, 10_000):
        groups = np.arange(n) % 2
        values.append(ranking_skews(ranking(groups), groups, np.full(2, 0.5), ks=(n,)).ndkl[0, 0])
    assert np.all(np.diff(values) < 0)
    # Only the first ranks are unfair, and their share of the discounts, sum 1/log2(i+1), vanishes.
    assert values[-1] < 0.01 * np.log(2)


def test_ndkl_is_not_negative_and_zero_for_a_single_wanted_group():
    rng = np.random.default_rng(0)
    for _ in range(50):
        groups = rng.integers(0, 4, 30)
        q = rng.dirichlet(np.ones(4))
        assert ranking_skews(rng.normal(size=(2, 30)), groups, q, ks=(1, 7, 30)).ndkl.min() >= 0
    one = np.zeros(8, int)
    assert ranking_skews(ranking(one), one, np.array([1.0]), ks=(3,)).ndkl[0, 0] == 0


def test_ndkl_of_the_worst_ranking_is_the_divergence():
    """All of one group: every beginning has KL = ln 1/q."""
    groups = np.array([1] * 5 + [0] * 5)
    got = ranking_skews(ranking(groups), groups, np.array([0.8, 0.2]), ks=(5,))
    assert got.ndkl[0, 0] == pytest.approx(np.log(1 / 0.2))
    assert got.max_skew[0, 0] == pytest.approx(np.log(1 / 0.2))
    assert got.min_skew[0, 0] == pytest.approx(np.log((1 / 5) / 0.8))  # absent counts as 1/k


def test_order_of_candidates_and_names_of_groups_change_nothing():
    rng = np.random.default_rng(0)
    scores, groups, q = rng.normal(size=(3, 40)), rng.integers(0, 3, 40), np.array([0.5, 0.2, 0.3])
    one = ranking_skews(scores, groups, q, ks=(5, 20))
    order, swap = rng.permutation(40), np.array([2, 0, 1])
    other = ranking_skews(scores[:, order], swap[groups[order]], q[np.argsort(swap)], ks=(5, 20))
    np.testing.assert_allclose(other.max_skew, one.max_skew, atol=1e-12)
    np.testing.assert_allclose(other.min_skew, one.min_skew, atol=1e-12)
    np.testing.assert_allclose(other.ndkl, one.ndkl, atol=1e-12)
    np.testing.assert_allclose(other.skew[:, :, swap], one.skew, atol=1e-12)
    higher = ranking_skews(np.exp(3 * scores), groups, q, ks=(5, 20))  # only the order counts
    np.testing.assert_array_equal(higher.ndkl, one.ndkl)


def test_the_skew_of_all_candidates_is_that_of_any_model():
    groups = np.random.default_rng(0).integers(0, 3, 40)
    q = target_shares(groups, "uniform")
    got = ranking_skews(normal(1, 6, 40), groups, q, ks=(40,))
    np.testing.assert_allclose(got.max_skew, got.max_skew[0, 0])
    assert got.ndkl.std() > 0
    share = ranking_skews(normal(1, 6, 40), groups, target_shares(groups, "share"), ks=(40,))
    np.testing.assert_allclose(share.max_skew, 0, atol=1e-12)


def test_candidates_of_unknown_group_are_not_in_the_ranking():
    rng = np.random.default_rng(0)
    scores, groups = rng.normal(size=(2, 50)), rng.integers(-1, 2, 50)
    known = groups >= 0
    q = target_shares(groups, "share")
    np.testing.assert_array_equal(q, target_shares(groups[known], "share"))
    one = ranking_skews(scores, groups, q, ks=(10,))
    other = ranking_skews(scores[:, known], groups[known], q, ks=(10,))
    np.testing.assert_array_equal(one.skew, other.skew)
    np.testing.assert_array_equal(one.ndkl, other.ndkl)


def test_a_group_that_nobody_wants_and_nobody_has_is_left_out():
    groups = np.array([0, 2, 0, 2])
    q = target_shares(groups, "uniform")
    np.testing.assert_array_equal(q, [0.5, 0, 0.5])
    got = ranking_skews(ranking(groups), groups, q, ks=(2,))
    assert got.max_skew[0, 0] == got.min_skew[0, 0] == 0
    assert np.isnan(got.skew[0, 0]).tolist() == [False, True, False]


def test_wrong_cuts_and_targets_are_refused():
    assert cut_offs((3, 0.5, 0.07, 1.0), 100) == [3, 50, 7, 100]
    for ks in ((0,), (11,), (0.0,), (2.5,), (-0.5,), ()):
        with pytest.raises(ValueError, match="10 candidates"):
            cut_offs(ks, 10)
    groups = np.array([0, 1])
    with pytest.raises(ValueError, match="sum to 1"):
        ranking_skews(ranking(groups), groups, np.array([0.5, 0.6]), ks=(1,))
    with pytest.raises(ValueError, match="no share"):
        ranking_skews(ranking(groups), groups, np.array([1.0, 0.0]), ks=(1,))
    with pytest.raises(ValueError, match="'uniform', 'share'"):
        target_shares(groups, "equal")


def people(n=40):
    rng = np.random.default_rng(0)
    who = rng.choice(["man", "woman", "none"], n)
    return ListSource(record(i, gender=str(g)) for i, g in enumerate(who))


WORDS = {w: normal(i + 5, 4) for i, w in enumerate(("cook", "judge", "a cook", "a judge"))}
ARGUMENTS = dict(
    by="gender", groups=("man", "woman"), words=("cook", "judge"), templates=("{}", "a {}")
)


@pytest.mark.parametrize("block_size", [None, 1, 3])
def test_the_evaluator_is_the_mean_over_its_queries(block_size):
    source, zimg = people(), unit(normal(0, 40, 4))
    evaluate = make_skew(source, ks=(5, 0.5), block_size=block_size, **ARGUMENTS)
    result = evaluate(fixed_encode(zimg, WORDS))
    groups = np.array([{"man": 0, "woman": 1}.get(g, -1) for g in source.columns["gender"]])
    count = int((groups >= 0).sum())
    half = -(-count // 2)
    texts = ["cook", "a cook", "judge", "a judge"]
    scores = (unit(np.stack([WORDS[t] for t in texts])) @ zimg.T).astype(np.float64)
    for target in TARGETS:
        skew = ranking_skews(scores, groups, target_shares(groups, target), ks=(5, half))
        for k, i in ((5, 0), (half, 1)):
            expected = {
                f"maxskew_{target}_{k}": skew.max_skew[:, i].mean(),
                f"minskew_{target}_{k}": skew.min_skew[:, i].mean(),
                f"ndkl_{target}_{k}": skew.ndkl[:, i].mean(),
            }
            got = {key: result.metrics[key] for key in expected}
            assert got == pytest.approx(expected, abs=1e-12)
    assert result.metrics["queries"] == 4
    assert (result.metrics["images"], result.metrics["masked"]) == (count, 40 - count)
    details = json.loads(json.dumps(result.details, allow_nan=False))
    assert [row["text"] for row in details["prompts"]] == texts
    assert details["ks"] == [5, half]


def test_a_model_that_finds_men_first_is_skewed_to_men():
    source = people()
    men = source.columns["gender"] == "man"
    encode = fixed_encode(
        np.where(men[:, None], [1.0, 0.1], [0.1, 1.0]), {"judge": [1, 0], "a judge": [1, 0]}
    )
    evaluate = make_skew(source, ks=(5,), **(ARGUMENTS | {"words": ("judge",)}))
    result = evaluate(encode)
    assert (men.sum(), result.details["group_names"]) == (14, ["man", "woman"])
    # All fourteen men tie and are kept: 14/5 of the wanted half.
    assert result.metrics["maxskew_uniform_5"] == pytest.approx(np.log(14 / 5 / 0.5))
    man, woman = result.details["prompts"][0]["skew"][0]
    assert man == pytest.approx(np.log(14 / 5 / 0.5))
    assert woman == pytest.approx(np.log(1 / 5 / 0.5))


def test_an_absent_group_is_told_and_takes_no_share():
    arguments = ARGUMENTS | {"groups": ("robot", "woman", "man")}
    encode = fixed_encode(unit(normal(0, 40, 4)), WORDS)
    with_robots = make_skew(people(), ks=(5,), **arguments)(encode).metrics
    without = make_skew(people(), ks=(5,), **ARGUMENTS)(encode).metrics
    assert (with_robots.pop("absent"), without.pop("absent")) == (1, 0)
    assert (with_robots.pop("groups"), without.pop("groups")) == (3, 2)
    assert with_robots == pytest.approx(without)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="ks have"):
        make_skew(people(), ks=(41,), **ARGUMENTS)
    with pytest.raises(ValueError, match="'uniform', 'share'"):
        make_skew(people(), ks=(5,), targets=("equal",), **ARGUMENTS)
    with pytest.raises(ValueError, match="a list out of"):
        make_skew(people(), ks=(5,), targets="share", **ARGUMENTS)
    with pytest.raises(ValueError, match="only one"):
        make_skew(people(), ks=(5,), **(ARGUMENTS | {"groups": ("man",)}))
    with pytest.raises(ValueError, match="not blank"):
        make_skew(people(), ks=(5,), **(ARGUMENTS | {"words": ("cook", " ")}))
    with pytest.raises(ValueError, match="list of at least one"):
        make_skew(people(), ks=(5,), **(ARGUMENTS | {"words": "cook"}))
