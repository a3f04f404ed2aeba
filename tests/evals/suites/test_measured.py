"""What a suite resamples is what it reports: draws, hits and sizes beside the numbers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bias_clip.evals.encode import Encode
from bias_clip.evals.headlines import find_metric
from bias_clip.evals.quality.zeroshot import class_embeddings
from bias_clip.evals.resampling import difference, interval
from bias_clip.evals.suites import SUITES, load_suite
from bias_clip.evals.suites.families import (
    captions,
    classified,
    found,
    measure,
    parts_of,
    professions,
)
from bias_clip.evals.suites.run import read_suite
from tests.evals.suites.test_run import ENCODE, _files, _folder, _vectors

PLAIN = {"absent", "short", "without"}  # counts in words: no interval


@pytest.mark.parametrize("name", SUITES)
def test_every_number_of_a_suite_is_resampled_and_is_the_one_that_it_reports(
    name: str, tmp_path: Path
) -> None:
    suite, files = load_suite(name), _files(tmp_path / "files")
    data = read_suite(suite, _folder(name, tmp_path / "data"))
    parts = measure(suite, data, files)(ENCODE)
    assert tuple(parts) == parts_of(suite)
    for part in parts.values():
        draws = part.draw(20, 0)
        metrics, details = part.result.metrics, part.result.details
        for key, value in draws.whole.items():
            np.testing.assert_allclose(value, metrics[key], atol=2e-6, err_msg=key)
        texts = part.draw_texts(20, 0) if part.draw_texts else None
        for key, value in (texts.whole if texts else {}).items():
            np.testing.assert_allclose(value, metrics[key], atol=2e-6, err_msg=key)
        for key, hits in part.hits.items():
            np.testing.assert_allclose(hits.mean(), metrics[key], atol=1e-9, err_msg=key)
        missing = {
            key
            for key in metrics.keys() - draws.whole.keys()
            if find_metric(key, details).unit != "count"
            and not key.endswith(("chance", "_deviation", "_base", "_low", "_high"))
        }
        assert not missing - {"p"}


class Once:
    """A generator whose every resample holds each item once."""

    def integers(self, low: int, high: int, size: int | tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(np.arange(low, high), size)

    def multinomial(self, number: int, shares: np.ndarray, size: int) -> np.ndarray:
        return np.rint(np.tile(number * np.asarray(shares), (size, 1))).astype(int)

    def permutation(self, number: int) -> np.ndarray:
        return np.arange(number)


# Suites of emoji are of the same families, with thousands of items.
@pytest.mark.parametrize("name", [name for name in SUITES if not name.startswith("emoji")])
def test_a_resample_of_each_item_once_has_the_value_of_the_suite(
    name: str, tmp_path: Path, monkeypatch
) -> None:
    """Resampled rankings are moved to the value of all items, which would hide a wrong sign."""
    suite, files = load_suite(name), _files(tmp_path / "files")
    parts = measure(suite, read_suite(suite, _folder(name, tmp_path / "data")), files)(ENCODE)
    for module in (captions, found, professions):
        monkeypatch.setattr(module, "centered", lambda draws: draws)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Once())
    for part in parts.values():
        for draw in (part.draw, part.draw_texts):
            draws = draw(3, 0) if draw else None
            for key, values in (draws.drawn if draws else {}).items():
                if np.isfinite(values).any():
                    np.testing.assert_allclose(values, draws.whole[key], atol=2e-6, err_msg=key)


def test_resampled_occupations_are_ranked_as_the_suite_ranks_them(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=size) for size in (30, 24)]
    groups = [(s < rng.normal(size=len(s))).astype(int) for s in scores]  # men are found first
    by_name = professions._occupation_values(scores, groups, [5])
    monkeypatch.setattr(professions, "centered", lambda draws: draws)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Once())
    draws = professions._occupation_draws(scores, groups, by_name, [5])(3, 0)
    assert abs(draws.whole["bias_5"]) > 0.1
    for key, values in draws.drawn.items():
        np.testing.assert_allclose(values, draws.whole[key], atol=1e-9, err_msg=key)


def _other(strings: Sequence[str]) -> np.ndarray:
    return _vectors([f"{text}, of another model" for text in strings])


def test_two_models_have_the_same_resamples() -> None:
    suite = load_suite("emoji_search")
    evaluate = measure(suite, read_suite(suite, None))
    first = evaluate(ENCODE)["gender"]
    second = evaluate(Encode(ENCODE.images, _other, 1.0, 0.0))["gender"]
    same = difference(first.draw(200, 3), first.draw(200, 3), "maxskew_even_10")
    assert same.estimate[:3] == (0, 0, 0)
    assert same.p == 1
    other = difference(first.draw(200, 3), second.draw(200, 3), "maxskew_even_10")
    assert other.estimate.low < other.estimate.value < other.estimate.high


def test_intervals_of_hashed_embeddings_hold_the_value() -> None:
    suite = load_suite("emoji_association")
    draws = measure(suite, read_suite(suite, None))(ENCODE)["all"].draw(300, 0)
    for key in ("pairs_signed", "pairs_probability_mean"):
        found = interval(draws, key)
        assert found.low < found.value < found.high


def test_resampled_templates_are_classifiers_of_repeated_prompts() -> None:
    rng = np.random.default_rng(0)
    prompts, often = 3 * rng.normal(size=(7, 5, 6)), rng.multinomial(5, np.full(5, 0.2), size=23)
    prompts[2, 1] = 0  # a zero stays zero
    found = list(classified._resampled_classes(prompts.astype(np.float32), often / 5))
    assert len(found) == 23
    for times, zcls in zip(often, found, strict=True):
        repeated = np.repeat(prompts, times, axis=1)
        np.testing.assert_allclose(zcls, class_embeddings(repeated), atol=1e-6)


def test_images_scored_in_parts_have_the_ranks_of_all(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    images, prompts, labels = (
        rng.normal(size=(50, 6)),
        rng.normal(size=(7, 2, 6)),
        rng.integers(0, 7, 50),
    )
    whole = classified.measure_zeroshot(images, prompts, labels)
    monkeypatch.setattr(classified, "ROWS_TOGETHER", 8)
    parts = classified.measure_zeroshot(images, prompts, labels)
    assert parts.result.metrics == whole.result.metrics
    np.testing.assert_array_equal(parts.hits["acc1"], whole.hits["acc1"])


def test_templates_judged_on_some_images_lie_around_the_value_of_all(monkeypatch) -> None:
    monkeypatch.setattr(classified, "TEMPLATE_IMAGES", 10)
    rng = np.random.default_rng(0)
    # All templates are the same, so no resample of them changes anything.
    prompts = np.repeat(rng.normal(size=(7, 1, 6)).astype(np.float32), 4, axis=1)
    images, labels = rng.normal(size=(50, 6)), rng.integers(0, 7, 50)
    part = classified.measure_zeroshot(images, prompts, labels)
    assert part.draw_texts is not None
    for key, values in part.draw_texts(20, 0).drawn.items():
        np.testing.assert_allclose(values, part.result.metrics[key], atol=1e-12, err_msg=key)
