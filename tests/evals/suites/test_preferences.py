"""Draws of preferences and association tests: which numbers are reflected, and which sets are resampled."""

from pathlib import Path

import numpy as np
import pytest

from bias_clip.evals.encode import Encode
from bias_clip.evals.ranking import unit
from bias_clip.evals.resampling import Draws
from bias_clip.evals.suites import load_suite
from bias_clip.evals.suites.association_tests import differential_association, permutation_p
from bias_clip.evals.suites.families import measure, preferences
from bias_clip.evals.suites.layouts.data import SuiteData
from tests.evals.audit.people import People
from tests.evals.audit.test_audit import items
from tests.evals.suites.test_run import ENCODE

GAPS = ("pairs_mean", "pairs_max", "pairs_probability_mean", "pairs_probability_max")
HALVES = ("representation", "representation_probability")


def association(monkeypatch: pytest.MonkeyPatch, *, plain: bool) -> Draws:
    """Draws of pairs of occupations; `plain` leaves the reflection out."""
    (item,) = [item for item in items(People(40)) if item.suite.name == "association"]
    return drawn(monkeypatch, item.suite, item.data, plain)


def representation(monkeypatch: pytest.MonkeyPatch, *, plain: bool) -> Draws:
    """Draws of the preference of one of two words."""
    return drawn(monkeypatch, load_suite("m4_representation"), SuiteData(People(40), {}, {}), plain)


def drawn(monkeypatch, suite, data, plain: bool) -> Draws:
    with monkeypatch.context() as patch:
        if plain:
            patch.setattr(preferences, "reflected", lambda draws, keys: draws)
        return measure(suite, data, {})(ENCODE)["all"].draw(50, 0)


@pytest.mark.parametrize(("family", "sizes"), [(association, GAPS), (representation, HALVES)])
def test_sizes_of_gaps_are_reflected_and_signed_numbers_are_not(family, sizes, monkeypatch):
    plain, found = (family(monkeypatch, plain=plain) for plain in (True, False))
    assert set(sizes) < set(found.drawn)
    for key, values in found.drawn.items():
        assert np.ptp(plain.drawn[key]) > 0 or key == "ties"
        wanted = 2 * plain.whole[key] - plain.drawn[key] if key in sizes else plain.drawn[key]
        np.testing.assert_allclose(values, wanted, atol=1e-12, err_msg=key)


def test_an_image_as_near_to_both_words_does_not_prefer_the_second():
    suite = load_suite("m4_representation")
    texts = {
        f"a photo of a {word}": z for word, z in zip(("woman", "man"), np.eye(3), strict=False)
    }
    z = unit(np.array([[1.0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 1, 1]]))
    encode = Encode(lambda source: z, lambda asked: np.stack([texts[t] for t in asked]), 1.0, 0.0)
    found = measure(suite, SuiteData(People(4), {}, {}), {})(encode)["all"]
    np.testing.assert_array_equal(found.hits["preference"], [False, True, False, False])
    assert found.result.metrics["ties"] == 0.5


def word_sets(folder: Path, **sizes: int) -> dict[str, Path]:
    """Files of words, named after their set: x0, x1, ..."""
    folder.mkdir(exist_ok=True)
    files = {role: folder / role for role in "xyab"}
    for role, file in files.items():
        file.write_text("".join(f"{role}{i}\n" for i in range(sizes.get(role, 4))))
    return files


def encode_words(words):
    """x is near to a, and y to b; each word has a direction of its own."""
    axis = {"x": 0, "a": 0, "y": 1, "b": 1}
    rows = [3 * np.eye(12)[axis[w[0]]] + np.eye(12)[2 + "xyab".index(w[0]) * 2 + int(w[1]) % 2]
            + 0.3 * int(w[1]) * np.eye(12)[10] for w in words]  # fmt: skip
    return unit(np.stack(rows))


def effect(folder: Path, **sizes: int):
    encode = Encode(lambda source: None, encode_words, 1.0, 0.0)
    suite = load_suite("association_test")
    return measure(suite, None, word_sets(folder, **sizes))(encode)["all"]


def test_the_first_targets_are_compared_with_the_first_attributes(tmp_path):
    found = effect(tmp_path)
    assert found.result.metrics["effect_size"] > 1.5
    assert found.draw(20, 0).whole["effect_size"] == pytest.approx(
        found.result.metrics["effect_size"]
    )


def test_each_of_the_four_sets_is_resampled(tmp_path, monkeypatch):
    asked = []

    def spy(w, a, b):
        asked.append((w, a, b))
        return differential_association(w, a, b)

    found = effect(tmp_path)
    monkeypatch.setattr(preferences, "differential_association", spy)
    found.draw(30, 0)
    # The last two calls are of all words; those before them come in pairs, of x and of y.
    x, y = asked[:-2:2], asked[1:-2:2]
    assert len(x) == len(y) == 30
    for role, sets in (("x", [s[0] for s in x]), ("y", [s[0] for s in y]),
                       ("a", [s[1] for s in x]), ("b", [s[2] for s in x])):  # fmt: skip
        whole = encode_words([f"{role}{i}" for i in range(4)])
        place = [[int(np.argmax(whole @ row)) for row in rows] for rows in sets]
        assert all(np.allclose(whole[p], rows) for p, rows in zip(place, sets, strict=True)), role
        assert len({tuple(p) for p in place}) > 10, role
        assert any(len(set(p)) < 4 for p in place), role


@pytest.mark.parametrize("role", "xyab")
def test_a_set_of_one_word_has_no_interval(role, tmp_path):
    assert effect(tmp_path, **{role: 1}).draw(5, 0).notes == {
        "effect_size": "not enough items: 1 words in a set"
    }
    assert not effect(tmp_path, **{role: 2}).draw(5, 0).notes


def test_a_sampled_p_counts_the_observed_split_and_is_never_0():
    # The observed split is the only one of 184,756 with as large a sum.
    found = permutation_p(np.ones(10), np.zeros(10), max_splits=99)
    assert found.p == pytest.approx(1 / 100)
