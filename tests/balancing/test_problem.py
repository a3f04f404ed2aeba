"""A problem says what is wrong with it, and tolerances mean what they say."""

import numpy as np
import pytest

from bias_clip.balancing import count, make_problem, solve, tolerances
from bias_clip.balancing.problem import group_values
from tests.balancing.samples import problem_of, sample

TARGETS = {"man": 0.5, "old": 0.3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(targets={}), "at least one attribute"),
        (dict(targets={"man": 1.5}), r"share in \[0, 1\]"),
        (dict(targets={"man": float("nan")}), r"share in \[0, 1\]"),
        (dict(labels=["nurse", "nurse"]), "distinct names"),
        (dict(labels=["nurse"], proxies=["nurse"]), "distinct names"),
        (dict(intersections={("man", "tall"): 0.2}), "intersections"),
        (dict(intersections={("man", "man"): 0.2}), "two or more distinct"),
        (dict(intersections={("man", "old"): 0.2, ("old", "man"): 0.2}), "once"),
        (dict(intersections={("man", "old"): -0.2}), r"share in \[0, 1\]"),
        (dict(eta=0.0), "0 < eta <= cap"),
        (dict(eta=-1.0), "0 < eta <= cap"),
        (dict(eta=float("nan")), "0 < eta <= cap"),
        (dict(eta=1.1), "0 < eta <= cap"),
        (dict(eta="most"), "'max'"),
        (dict(cap=0.5), "0 < eta <= cap"),
        (dict(cap=float("inf")), "cap"),
        (dict(penalty=-1.0), "penalty"),
        (dict(penalty=float("inf")), "penalty"),
        (dict(eps_representation=-0.1), "eps_representation"),
        (dict(labels=["nurse"], eps_association=float("nan")), "eps_association"),
        (dict(labels=["nurse"], eps_association={"nurse": 0.1, "cook": 0.1}), "cook"),
        (dict(eps_representation={"man": 0.1}), "old"),
        (dict(tolerance="percent"), "prevalence"),
        (dict(unknown="zero"), "masked"),
    ],
)
def test_what_is_wrong_is_said(arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        make_problem(**({"targets": TARGETS} | arguments))


def test_an_intersection_is_known_as_soon_as_one_factor_is_absent():
    problem = make_problem(TARGETS, intersections={("man", "old"): 0.1})
    rows = np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)], np.int8)
    assert group_values(problem, rows)[:, 2].tolist() == [-1, 0, -1, 0, 0, 0, -1, 0, 1]


def test_relative_is_absolute_times_eta():
    s, y = sample(0)
    table = count(s, y)
    given = dict(eta=0.6, eps_representation=0.02, eps_association=0.004)
    relative = problem_of(s, y, tolerance="relative", **given)
    scaled = {k: 0.6 * v for k, v in given.items() if k != "eta"}
    absolute = problem_of(s, y, tolerance="absolute", eta=0.6, **scaled)
    np.testing.assert_allclose(
        solve(table, relative).weights, solve(table, absolute).weights, atol=1e-12
    )


def test_prevalence_tolerance_is_a_share_of_the_weight_that_the_constraint_is_about():
    s, y = sample(1, unknown=0.5)
    given = dict(
        eps_representation=0.02, eps_association={f"y{r}": 0.01 * (r + 1) for r in range(4)}
    )
    eps = tolerances(problem_of(s, y, **given), count(s, y), 0.6)
    for k in range(2):
        known = s[:, k] >= 0
        assert eps[k, -1] == pytest.approx(0.6 * 0.02 * known.mean())
        for r in range(4):
            assert eps[k, r] == pytest.approx(
                0.6 * 0.01 * (r + 1) * (known & (y[:, r] == 1)).mean()
            )


def test_prevalence_without_a_table_is_an_error(unchecked):
    with pytest.raises(ValueError, match="count table"):
        tolerances(make_problem(TARGETS), None, 1.0)


def test_infinite_tolerance_is_the_label_left_out():
    s, y = sample(2)
    given = dict(eta=0.6, eps_representation=0.01)
    eps = dict.fromkeys(["y0", "y1", "y2"], 0.01)
    with_it = solve(count(s, y), problem_of(s, y, eps_association=eps | {"y3": np.inf}, **given))
    without = problem_of(s, y[:, :3], eps_association=eps, **given)
    rest = solve(count(s, y[:, :3]), without)
    assert with_it.primal == pytest.approx(rest.primal, rel=1e-10)
    assert not with_it.v[:, :, 3].any()
