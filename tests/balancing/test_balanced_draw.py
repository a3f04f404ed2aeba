"""A balanced draw: chances that are exactly the weights, sums that are theirs, rows by seed and id alone."""

import numpy as np
import pytest

from bias_clip.balancing import (
    allocate,
    association_bias,
    count,
    keep,
    keep_balanced,
    landing,
    lookup,
    make_cells,
    make_problem,
    solve,
)
from bias_clip.balancing import balanced_draw as module
from bias_clip.balancing.balanced_draw import (
    cell_copies,
    cells_from_json,
    cells_to_json,
    epoch_seed,
)
from bias_clip.balancing.cube import cube
from bias_clip.balancing.landing import Constraints

SEEDS = 300
SIGMAS = 4.5  # of a few hundred means at most


def assert_mean(draws, chances):
    """The mean over seeds is the chance, within its error; what is certain is exact."""
    draws, chances = np.asarray(draws, float), np.asarray(chances)
    error = np.sqrt(chances * (1 - chances) / len(draws))
    assert (np.abs(draws.mean(0) - chances) <= SIGMAS * error + 1e-9).all()


def unit_moments(matrix):
    return Constraints(lambda units: matrix[units], *np.ones((2, matrix.shape[1])))


def rare_labels(seed=0, rows=240, labels=10):
    """Rows with an attribute, partly unknown, and labels of 6 to 30 rows that go with it."""
    rng = np.random.default_rng(seed)
    man = (rng.random((rows, 1)) < 0.6).astype(np.int8)
    y = np.zeros((rows, labels), np.int8)
    for r in range(labels):
        pull = np.exp(rng.normal(0, 0.5) * man[:, 0])
        size = int(rng.integers(6, 31))
        y[rng.choice(rows, size, replace=False, p=pull / pull.sum()), r] = 1
    man[rng.random((rows, 1)) < 0.2] = -1
    return man, y


def solved(man, y, **changes):
    table = count(man, y)
    problem = make_problem(
        {"man": 0.5}, [f"label{r}" for r in range(y.shape[1])], **{"eta": 0.7, **changes}
    )
    weights = np.clip(solve(table, problem, min_retained=0.0).weights, 0, problem.cap)
    return table, make_cells(table, problem), weights


# The cube.


def every_outcome(monkeypatch, draw):
    """All that a draw can give for one seed's order of units, with the probability of each."""
    found, todo = [], [[]]
    while todo:
        path, chance = todo.pop(), 1.0
        taken = []

        def goes_forth(coins, forth, back, path=path, taken=taken):
            taken.append((path[len(taken)] if len(taken) < len(path) else True, forth, back))
            return taken[-1][0]

        monkeypatch.setattr(landing, "_goes_forth", goes_forth)
        result = draw()
        for i, (forth_taken, forth, back) in enumerate(taken):
            chance *= (back if forth_taken else forth) / (forth + back)
            if i >= len(path):
                todo.append([went for went, *_ in taken[:i]] + [False])
        found.append((chance, result))
    return np.array([chance for chance, _ in found]), np.array([x for _, x in found])


@pytest.mark.parametrize("constraints", [0, 1, 3, 6])
@pytest.mark.parametrize("seed", [0, 1])
def test_chances_are_exact_whatever_the_constraints(monkeypatch, constraints, seed):
    rng = np.random.default_rng(constraints)
    chances = rng.random(7)
    chances[:2] = 0, 1
    kept = unit_moments(rng.normal(size=(7, constraints)))
    probability, drawn = every_outcome(monkeypatch, lambda: cube(seed, chances, kept))
    assert probability.sum() == pytest.approx(1)
    assert len(probability) > 2
    np.testing.assert_allclose(probability @ drawn, chances, atol=1e-8)


@pytest.mark.parametrize("seed", [0, 1])
def test_chances_are_exact_where_outcomes_are_too_many_to_compare_all(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    chances = rng.random(16)
    kept = unit_moments(
        rng.normal(size=(16, 30))
    )  # more than units, so that the choice is among all
    probability, drawn = every_outcome(monkeypatch, lambda: cube(seed, chances, kept))
    assert probability.sum() == pytest.approx(1)
    np.testing.assert_allclose(probability @ drawn, chances, atol=1e-7)


def test_sampled_outcomes_are_nearly_as_good_as_the_best(monkeypatch):
    """Twelve units, of which all outcomes can be compared, beside those that are sampled."""
    rng = np.random.default_rng(3)
    chances, effects = np.full(12, 0.5), rng.normal(size=(12, 8))
    base = -chances @ effects

    def expected_worst():
        outcomes, probability = landing._spread(chances, 6, base, effects, 0)
        return probability @ np.abs(base + outcomes @ effects).max(1)

    best = expected_worst()
    monkeypatch.setattr(landing, "_ALL", 0)
    sampled = expected_worst()
    monkeypatch.setattr(landing, "_sampled", lambda first, *_: first)
    assert sampled <= 1.1 * best
    assert expected_worst() > 1.2 * best  # systematic sampling alone


@pytest.mark.parametrize("rare", [0, 6])
@pytest.mark.parametrize("seed", range(4))
def test_sampled_outcomes_do_no_harm_where_it_can_be_avoided(monkeypatch, seed, rare):
    """Thirty units in 24 overlapping sums; most outcomes of systematic sampling harm one of them."""
    rng = np.random.default_rng(seed)
    chances = np.append(rng.uniform(0.02, 0.98, 29), 0.0)
    chances[:rare] = 0.0005
    chances[29] = np.ceil(chances.sum()) - chances.sum()
    effects = 0.65 * rng.integers(-1, 2, (30, 24)) * (rng.random((30, 24)) < 0.15)
    base = -chances @ effects

    def harmful():
        outcomes, probability = landing._spread(chances, round(chances.sum()), base, effects, 0)
        np.testing.assert_allclose(probability @ outcomes, chances, atol=1e-7)
        return probability[(np.abs(base + outcomes @ effects) > 1).any(1)].sum()

    assert harmful() < 1e-7
    monkeypatch.setattr(landing, "_sampled", lambda first, *_: first)
    assert harmful() > 0.2


def test_a_sample_that_cannot_be_solved_leaves_what_an_earlier_one_found(monkeypatch):
    chances, solve, calls = np.full(16, 0.5), landing._solve, []
    effects = 9.0 * np.random.default_rng(0).normal(size=(16, 12))  # some harm is left in any case

    def fails_the_second_time(*given):
        calls.append(given)
        return solve(*given) if len(calls) == 1 else None

    monkeypatch.setattr(landing, "_solve", fails_the_second_time)
    spread = landing._spread(chances, 8, -chances @ effects, effects, 0)
    assert len(calls) == 2
    np.testing.assert_allclose(spread[1] @ spread[0], chances, atol=1e-7)


def test_pairs_keep_every_sum_though_the_flight_ends_early():
    """Seventy pairs, fewer units than `LAST`: one of each pair, which a sample would hardly find."""
    pairs = np.repeat(np.eye(70), 2, axis=0)
    for seed in range(5):
        drawn = cube(seed, np.full(140, 0.5), unit_moments(pairs))
        assert (drawn @ pairs == 1).all()


def test_coins_fall_as_often_as_the_steps_demand():
    rng = np.random.default_rng(0)
    chances = np.append(rng.random(4), 0.05)
    kept = unit_moments(rng.normal(size=(5, 2)))
    assert_mean([cube(seed, chances, kept) for seed in range(SEEDS)], chances)


def test_pairs_are_all_possible_where_the_sums_allow_them():
    """Four halves on two sides: one of each side, and each of the four pairs a quarter of the time."""
    sides = unit_moments(np.array([[1.0], [1.0], [-1.0], [-1.0]]))
    draws = np.array([cube(seed, np.full(4, 0.5), sides) for seed in range(SEEDS)])
    assert (draws[:, :2].sum(1) == 1).all()
    assert (draws[:, 2:].sum(1) == 1).all()
    pairs = np.bincount(2 * draws[:, 0] + draws[:, 2], minlength=4) / SEEDS
    assert np.abs(pairs - 0.25).max() < SIGMAS * np.sqrt(0.25 * 0.75 / SEEDS)


def test_sums_that_whole_units_can_have_are_exact():
    """Strata of four halves in three overlapping groups: every sum of chances is a whole number."""
    matrix = np.repeat([[1, 0, 1], [1, 1, 0], [0, 1, 1], [0, 0, 1.0]], 4, axis=0)
    for seed in range(50):
        drawn = cube(seed, np.full(16, 0.5), unit_moments(matrix))
        np.testing.assert_array_equal(drawn @ matrix, 0.5 * matrix.sum(0))


@pytest.mark.parametrize(("total", "seeds"), [(0.4, 30), (7.0, 8)])
def test_the_number_drawn_is_the_sum_rounded(total, seeds):
    rng = np.random.default_rng(1)
    chances = rng.dirichlet(np.full(30, 20.0)) * total
    kept = unit_moments(rng.normal(size=(30, 35)))  # more than can be kept
    sizes = [cube(seed, chances, kept).sum() for seed in range(seeds)]
    assert set(sizes) == {int(np.floor(total)), int(np.ceil(total))}


def test_the_landing_gives_up_what_harms_least():
    """More constraints than units, so that only a few can be kept: among them the one that matters."""
    sides = np.repeat([1.0, -1.0], 4)[:, None]
    others = np.random.default_rng(0).normal(size=(8, 12))
    scale = np.append(np.full(12, 1e-3), 1000.0)
    matrix = np.concatenate([others, sides], axis=1)
    kept = Constraints(lambda units: matrix[units], scale, np.zeros(13))
    for seed in range(20):
        assert cube(seed, np.full(8, 0.5), kept) @ sides[:, 0] == 0


def test_many_units_keep_their_sums_to_a_few_units():
    """As many steps as make the inverse be computed again, with dependent and repeated moments."""
    rng = np.random.default_rng(2)
    matrix = rng.integers(-1, 2, (3000, 12)).astype(float)
    matrix[:, 11] = matrix[:, 0] + matrix[:, 1]
    chances = rng.random(3000)
    drawn = cube(5, chances, unit_moments(matrix))
    assert np.abs((drawn - chances) @ matrix).max() < 4  # by coins: 26 on average
    assert abs(drawn.sum() - chances.sum()) < 1


# Rows.


def test_each_row_is_drawn_as_often_as_it_weighs():
    man, y = rare_labels(rows=60, labels=4)
    table, cells, weights = solved(man, y)
    place = lookup(table, man, y)
    w = weights[place] * 1.9  # copies, too
    draws = [keep_balanced(seed, np.arange(60), w, place, cells) for seed in range(200)]
    assert set(np.unique(draws)) == {0, 1, 2}
    assert w.max() > 1
    assert_mean(draws - np.floor(w), w % 1)


@pytest.mark.parametrize("seed", range(2))
def test_the_draw_is_as_balanced_as_the_weights_up_to_a_row(seed):
    man, y = rare_labels(seed)
    table, cells, weights = solved(man, y, eps_association=0.2)
    mass = weights * table.counts
    row = 1 / min(mass[table.attributes[:, 0] == side].sum() for side in (0, 1))

    def largest(copies):
        gap = association_bias(table.attributes, table.labels, copies.astype(float)).gap
        return np.abs(gap).max()

    bound = 1.1 * largest(mass) + row
    place, ids = lookup(table, man, y), np.arange(len(man))
    coins = [largest(np.bincount(place, keep(s, ids, weights[place]))) for s in range(20)]
    for s in range(20):
        copies = cell_copies(table.counts, weights, allocate(s, table.counts, weights, cells))[1]
        assert largest(copies) <= bound
        assert copies.sum() in (np.floor(mass.sum()), np.ceil(mass.sum()))
    assert (np.array(coins) > bound).any()  # a draw that does not balance is told from it


@pytest.mark.parametrize("kind", ["integers", "strings"])
def test_the_order_of_rows_does_not_matter(kind):
    man, y = rare_labels()
    table, cells, weights = solved(man, y)
    place = lookup(table, man, y)
    ids = np.arange(len(man)) if kind == "integers" else np.array([f"{i}.png" for i in range(240)])
    whole = keep_balanced(3, ids, weights[place], place, cells)
    order = np.random.default_rng(0).permutation(len(man))
    again = keep_balanced(3, ids[order], weights[place][order], place[order], cells)
    np.testing.assert_array_equal(again, whole[order])
    assert (keep_balanced(4, ids, weights[place], place, cells) != whole).any()


def test_shards_draw_the_same_rows_in_two_passes():
    """What the docstring of `keep_balanced` says, done."""
    man, y = rare_labels()
    table, cells, weights = solved(man, y)
    place, ids = lookup(table, man, y), np.arange(len(man))
    whole = keep_balanced(1, ids, weights[place], place, cells)
    taken = allocate(1, table.counts, weights, cells)
    shards = np.array_split(np.random.default_rng(0).permutation(len(man)), 5)
    smallest = [[] for _ in taken]
    for rows in shards:
        for g, value in zip(place[rows], module.hash64(1, ids[rows]), strict=True):
            smallest[g] = sorted([*smallest[g], value])[: taken[g]]
    for rows in shards:
        hashes = module.hash64(1, ids[rows])
        ends = [smallest[g][-1] if smallest[g] else None for g in place[rows]]
        kept = [end is not None and h <= end for h, end in zip(hashes, ends, strict=True)]
        np.testing.assert_array_equal(kept + np.floor(weights[place[rows]]), whole[rows])


def test_copies_of_cells_are_those_of_their_rows():
    man, y = rare_labels()
    table, cells, weights = solved(man, y)
    place, w = lookup(table, man, y), 2.2 * weights
    copies = keep_balanced(0, np.arange(len(man)), w[place], place, cells)
    found = cell_copies(table.counts, w, allocate(0, table.counts, w, cells))
    for got, each in zip(found, (copies > 0, copies, copies**2), strict=True):
        np.testing.assert_array_equal(got, np.bincount(place, each, len(w)))


def test_cells_survive_json():
    cells = solved(*rare_labels())[1]
    again = cells_from_json(cells_to_json(cells))
    np.testing.assert_array_equal(again.groups, cells.groups)
    np.testing.assert_array_equal(again.labels, cells.labels)
    assert again.targets == cells.targets


def test_labels_without_a_constraint_are_no_part_of_cells():
    man, y = rare_labels(labels=3)
    problem = make_problem(
        {"man": 0.5}, ["a", "b", "c"], eps_association={"a": 0.1, "b": np.inf, "c": 0.1}
    )
    cells = make_cells(count(man, y), problem)
    assert cells.labels.shape[1] == 2


def test_epochs_have_seeds_of_their_own_and_the_first_has_the_seed():
    assert epoch_seed(7, 0) == 7
    assert len({epoch_seed(seed, epoch) for seed in range(20) for epoch in range(20)}) == 400


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.array([0.5, -1.0])}, "got negative or non-finite"),
        ({"weights": np.array([0.5, 0.4]), "place": np.array([0, 0])}, "got several within a cell"),
        ({"place": np.array([0, 9])}, "place: got 0 to 9; expected 0 to 1"),
    ],
)
def test_wrong_rows_are_refused(changes, message):
    cells = module.Cells(np.int8([[1], [0]]), np.int8([[1], [1]]), (0.5,))
    given = {"weights": np.array([0.5, 0.5]), "place": np.array([0, 1]), **changes}
    with pytest.raises(ValueError, match=message):
        keep_balanced(0, np.arange(2), **given, cells=cells)


@pytest.mark.parametrize(
    "found",
    [{}, {"targets": [0.5], "shape": [2, 2], "zlib": "AAAA"}, {"targets": [0.5], "shape": [2, 2], "zlib": "!"},
     {"targets": 3, "shape": [], "zlib": ""}],
)  # fmt: skip
def test_cells_that_are_none_are_refused(found):
    with pytest.raises(ValueError, match="cells"):
        cells_from_json(found)
