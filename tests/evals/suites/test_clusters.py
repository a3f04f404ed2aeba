"""Images of a cluster are drawn together in every suite: copies inside clusters change nothing."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from bias_clip.evals.resampling import interval
from bias_clip.evals.suites import load_suite
from bias_clip.evals.suites.berg import query_skews
from bias_clip.evals.suites.families import found, measure, professions
from bias_clip.evals.suites.layouts.data import SuiteData
from bias_clip.evals.suites.measured import group_units, smallest
from bias_clip.evals.suites.visogender_run import Scores
from tests.evals.audit.people import People
from tests.evals.suites.test_run import ENCODE

NUMBER, COPIES, NUM = 60, 3, 60
CODES = np.random.default_rng(0).integers(0, 2, NUMBER)
RACES = np.arange(NUMBER) % 7
COLUMNS = {
    "age": np.arange(NUMBER) % 9,
    "gender": CODES,
    "race": RACES,
    "race_binary": (RACES != 1).astype(int),
    "background": CODES,
    "bird": np.arange(NUMBER) % 2,
    "label": np.arange(NUMBER) % 3,
}
EXACT = (
    *("sobit", "fairface_berg", "fairface_datacomp", "waterbirds", "m4_association"),
    *("m4_representation", "emoji_names"),
)
SUITES = (*EXACT, "emoji_retrieval")  # a copy of an image is one more candidate for its caption


def data_of(copies: int, *, clusters: bool = True) -> SuiteData:
    """Sixty images, each as often as said, with itself as its cluster."""
    which = np.repeat(np.arange(NUMBER), copies)
    source = People(NUMBER)
    source.columns = {key: values[which] for key, values in source.columns.items()}
    codes = {key: values[which] for key, values in COLUMNS.items()}
    names = dict.fromkeys(("gender", "bird", "background"), ("one", "two"))
    data = SuiteData(source, codes, names)
    return replace(data, clusters=which if clusters else None, cluster="person")


def measured(name: str, data: SuiteData, folder, *, copies: int = 1) -> dict:
    """The suite with its cut-offs as many times as large as there are copies."""
    suite, files = load_suite(name), {}
    if name == "sobit":
        kinds = {"vo": "ADJECTIVE", "ka": "NOUN"}
        (folder / "So-B-IT_taxonomy.json").write_text(json.dumps({"a": list(kinds)}))
        (folder / "So-B-IT_categories.json").write_text(json.dumps(kinds))
        suite, files = replace(suite, options={"k": 10 * copies}), {"words": str(folder)}
    if name == "fairface_berg":
        (folder / "p.csv").write_text("template,concept\nA {} one,vo\n,ka\n")
        suite = replace(suite, options={"ks": [10 * copies]})
        files = {"prompts": str(folder / "p.csv")}
    if name == "emoji_names":
        words, templates = {"": ("one", "two", "three")}, {"": ("{}", "a {}")}
        data = replace(data, classes=words, templates=templates)
    if name == "m4_association":
        suite = replace(suite, groups={"gender": ("man", "woman")}, options={"by": "gender"})
        data.source.columns["gender"] = np.array(["man", "woman"])[data.codes["gender"]]
    return measure(suite, data, files)(ENCODE)


@pytest.mark.parametrize("name", EXACT)
def test_copies_inside_clusters_leave_every_interval_as_it_was(name, tmp_path) -> None:
    one = measured(name, data_of(1), tmp_path)
    many = measured(name, data_of(COPIES), tmp_path, copies=COPIES)
    checked = 0
    for part, own in one.items():
        first, second = own.draw(NUM, 0), many[part].draw(NUM, 0)
        assert first.units == second.units == NUMBER
        for key in first.whole:
            other = key.replace("_10", "_30") if name == "fairface_berg" else key
            a, b = interval(first, key), interval(second, other)
            np.testing.assert_allclose(a.value, own.result.metrics[key], atol=2e-6, err_msg=key)
            # The deviation of C-ASC divides by n - 1 images, which copies change; NDKL has a first place.
            scale = math.sqrt((COPIES * NUMBER - 1) / (COPIES * (NUMBER - 1)))
            factor = scale if key.startswith("casc") else 1.0
            if key.startswith("ndkl") or np.isnan(a.low):
                continue
            np.testing.assert_allclose(np.array(b[:3]), factor * np.array(a[:3]), atol=1e-9)
            checked += 1
    assert checked


@pytest.mark.parametrize("name", SUITES)
def test_images_of_clusters_are_not_tested_as_independent(name, tmp_path) -> None:
    for own in measured(name, data_of(COPIES), tmp_path, copies=COPIES).values():
        assert not own.hits
        assert own.draw(NUM, 0).units == NUMBER


@pytest.mark.parametrize("name", SUITES)
def test_sizes_count_clusters_and_not_images(name, tmp_path) -> None:
    one = measured(name, data_of(1, clusters=False), tmp_path)
    many = measured(name, data_of(COPIES), tmp_path, copies=COPIES)
    for part, own in one.items():
        assert list(many[part].sizes.values()) == list(own.sizes.values())


def test_a_gap_has_the_items_of_its_smaller_group(tmp_path) -> None:
    own = measured("m4_association", data_of(1), tmp_path)["all"]
    first, second = np.bincount(CODES)
    assert first != second
    assert set(own.sizes.values()) == {min(first, second)}


def test_units_of_groups_are_images_or_the_clusters_that_have_the_group() -> None:
    groups, clusters = np.array([0, 0, 0, 1, 1, -1]), np.array([7, 7, 8, 8, 9, 9])
    np.testing.assert_array_equal(group_units(groups, None, num_groups=3), [3, 2, 0])
    np.testing.assert_array_equal(group_units(groups, clusters, num_groups=3), [2, 2, 0])
    assert smallest(np.array([4, 0, 2])) == 2
    assert smallest(np.zeros(2, int)) == 0


def test_rankings_of_all_images_once_are_those_of_the_suite() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=NUMBER)
    groups = (scores + 0.4 < rng.normal(size=NUMBER)).astype(int)  # the first are mostly of group 0
    shares = {"even": np.full((1, 2), 0.5), "share": np.bincount(groups)[None] / NUMBER}
    every = np.ones((1, NUMBER), np.int32)
    own = found._ranked_values(scores, every, groups, shares, 10)
    suite = query_skews(scores[None], groups, ks=[10])
    assert {f"{key}_10" for key in own} == suite.keys()
    assert own["bias"] > 0.3
    for key, value in own.items():
        np.testing.assert_allclose(value, suite[f"{key}_10"], atol=1e-9, err_msg=key)


def test_rows_of_one_address_are_one_image_of_visogender() -> None:
    """Each address in three rows: the interval, the sizes and the items stay as they were."""
    rng = np.random.default_rng(0)
    scores, genders, others = rng.normal(size=(40, 3)), np.arange(40) % 2, np.arange(40) // 2 % 2
    results = []
    for copies in (1, COPIES):
        which = np.repeat(np.arange(40), copies)
        own = (scores[which], genders[which])
        s = Scores(*own, which, *own, others[which], which, [])
        draws = professions._resolution_draws(s)(NUM, 0)
        ends = [interval(draws, key)[:3] for key in draws.whole]
        results.append((ends, draws.units, professions._resolution_sizes(s)))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-9)
    assert results[0][1:] == results[1][1:]
    assert results[0][1] == 80


def test_resamples_of_small_clusters_that_do_not_fill_the_cut_off_are_left_out(tmp_path) -> None:
    """One cluster holds most images: without it a resample has fewer images than are ranked."""
    clusters = np.maximum(np.arange(NUMBER) - 50, 0)
    data = replace(data_of(1), clusters=clusters)
    draws = measured("fairface_berg", data, tmp_path, copies=2)["gender"].draw(NUM, 0)
    drawn = draws.drawn["maxskew_even_20"]
    assert 0 < np.isnan(drawn).sum() < len(drawn)
    assert interval(draws, "maxskew_even_20").note.startswith("not enough items")
