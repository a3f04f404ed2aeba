"""What each annotator says of an example, and how answers are merged."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bias_clip.curation.captions import (
    MERGE_RULES,
    Lists,
    annotate_captions,
    annotate_zero_shot,
    merge_annotations,
)
from bias_clip.curation.given import (
    annotate_categories,
    annotate_column,
    annotate_scores,
    read_scores,
)
from bias_clip.curation.word_lists import WordList

GENDER = WordList("gender", "0" * 64, {"man": ("man", "=he"), "woman": ("woman", "=she")})
ROLES = WordList(
    "roles", "1" * 64, {"nurse": ("nurse",), "cook": ("cook", "chef")}, ("chef salad",)
)
LISTS_OF = Lists((GENDER,), (ROLES,))
CAPTIONS = [
    ["a man cooks", "a chef"],
    ["She is a nurse"],
    ["a tree"],
    ["a man and a woman"],
    [],
    [" "],
]


def test_captions_say_yes_no_and_unknown():
    found = annotate_captions(CAPTIONS, LISTS_OF)
    assert {k: v.tolist() for k, v in found.items()} == {
        "man": [1, 0, -1, -1, -1, -1],
        "nurse": [0, 1, 0, 0, -1, -1],
        "cook": [1, 0, 0, 0, -1, -1],
    }
    assert all(values.dtype == np.int8 for values in found.values())


def test_both_genders_can_be_two_attributes_that_overlap():
    found = annotate_captions(CAPTIONS, LISTS_OF, both="both")
    assert found["man"].tolist() == [1, 0, -1, 1, -1, -1]
    assert found["woman"].tolist() == [0, 1, -1, 1, -1, -1]


def test_a_permutation_of_examples_permutes_the_rows():
    order = np.random.default_rng(0).permutation(len(CAPTIONS))
    found, moved = (
        annotate_captions(c, LISTS_OF) for c in (CAPTIONS, [CAPTIONS[i] for i in order])
    )
    for name, values in found.items():
        np.testing.assert_array_equal(values[order], moved[name])


def test_lists_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match=r"twice: \['nurse'\]"):
        annotate_captions(
            [], Lists(labels=(ROLES,), proxies=(ROLES._replace(terms={"nurse": ("x",)}),))
        )
    with pytest.raises(ValueError, match="nothing ever says no"):
        annotate_captions([], Lists(attributes=(GENDER._replace(terms={"man": ("man",)}),)))
    with pytest.raises(ValueError, match="'id' is taken"):
        annotate_captions([], Lists(labels=(ROLES._replace(terms={"id": ("x",)}),)))
    with pytest.raises(ValueError, match="both: got 'neither'"):
        annotate_captions([], LISTS_OF, both="neither")


def test_a_column_says_what_its_values_mean_and_no_more():
    values = np.asarray(["man", "woman", "", "person"])
    found = annotate_column(values, yes=["man"], no=["woman"], unknown=["person"])
    assert found.tolist() == [1, 0, -1, -1]
    assert annotate_column(values, yes=["man"], no=["woman"], unknown=None).tolist() == [
        1,
        0,
        -1,
        -1,
    ]
    assert annotate_column(np.asarray([1, 0, 1]), yes=["1"], no=["0"]).tolist() == [1, 0, 1]
    assert annotate_column(np.asarray([True, False]), yes=["1"], no=["0"]).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"\['person'\] mean neither yes"):
        annotate_column(values, yes=["man"], no=["woman"])
    with pytest.raises(ValueError, match=r"\['man'\] in two"):
        annotate_column(values, yes=["man"], no=["man"], unknown=None)
    with pytest.raises(ValueError, match="float64"):
        annotate_column(np.asarray([0.5]), yes=["1"], no=["0"])


def test_categories_are_a_column_each():
    found = annotate_categories(np.asarray(["a", "b", "", "c"]), ["a", "c"])
    assert {k: v.tolist() for k, v in found.items()} == {"a": [1, 0, -1, 0], "c": [0, 0, -1, 1]}
    with pytest.raises(ValueError, match="twice"):
        annotate_categories(np.asarray(["a"]), ["a", "a"])


def scores_file(path, ids="abcde", **columns):
    columns = columns or {"man_score": [0.9, 0.59, 0.5, 0.1, np.nan]}
    pq.write_table(pa.table({"image": list(ids), **columns}), path)
    return path


def test_scores_abstain_within_the_band_and_where_they_are_no_numbers(tmp_path):
    table = read_scores(scores_file(tmp_path / "s.parquet"), ["man_score"], key="image")
    ids = np.asarray(list("edcba"))
    found = annotate_scores(table, ids, "man_score", threshold=0.5, band=0.1)
    assert found.tolist() == [-1, 0, -1, -1, 1]
    assert annotate_scores(table, ids, "man_score", threshold=0.5).tolist() == [-1, 0, 1, 1, 1]
    with pytest.raises(ValueError, match=r"lacks 1 of 2 examples: \['x'\]"):
        annotate_scores(table, np.asarray(["x", "a"]), "man_score", threshold=0.5)
    found = annotate_scores(
        table, np.asarray(["x", "a"]), "man_score", threshold=0.5, missing="unknown"
    )
    assert found.tolist() == [-1, 1]
    with pytest.raises(ValueError, match="band"):
        annotate_scores(table, ids, "man_score", threshold=0.5, band=-1)


def test_a_file_of_scores_with_faults_is_refused(tmp_path):
    path = scores_file(tmp_path / "s.parquet", "aab", score=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="come twice"):
        read_scores(path, ["score"], key="image")
    with pytest.raises(ValueError, match=r"does not have \['id', 'man'\]"):
        read_scores(path, ["man"])
    path = scores_file(tmp_path / "s.parquet", "ab", score=["high", "low"])
    with pytest.raises(ValueError, match="not numbers"):
        read_scores(path, ["score"], key="image")
    with pytest.raises(ValueError, match="no file"):
        read_scores(tmp_path / "none.parquet", ["score"])


def test_zero_shot_decides_by_the_best_prompt_and_abstains_within_the_margin():
    zprompts = np.eye(4, dtype=np.float32)
    names = ["man", "man", "woman", ""]
    zimg = np.asarray([[0, 0.9, 0.1, 0], [0.1, 0, 0.8, 0], [0.5, 0, 0.45, 0], [0.2, 0, 0.1, 0.9]])
    found = annotate_zero_shot(zimg, zprompts, names, margin=0.1)
    assert found["man"].tolist() == [1, 0, -1, -1]
    assert found["woman"].tolist() == [0, 1, -1, -1]
    assert annotate_zero_shot(zimg, zprompts, names)["man"].tolist() == [1, 0, 1, -1]
    tie = np.asarray([[0.5, 0, 0.5, 0]])
    assert annotate_zero_shot(tie, zprompts, names)["man"].tolist() == [-1]
    with pytest.raises(ValueError, match="two names or more"):
        annotate_zero_shot(zimg, zprompts, ["man"] * 4)


PAIRS = [(a, b) for a in (1, 0, -1) for b in (1, 0, -1)]
EXPECTED = {
    #             11  10 1-1  01  00 0-1 -11 -10 -1-1
    "first": [1, 1, 1, 0, 0, 0, 1, 0, -1],
    "agree": [1, -1, -1, -1, 0, -1, -1, -1, -1],
    "consistent": [1, -1, 1, -1, 0, 0, 1, 0, -1],
    "any": [1, 1, 1, 1, 0, -1, 1, -1, -1],
    "all": [1, 0, -1, 0, 0, 0, -1, 0, -1],
}


@pytest.mark.parametrize("rule", MERGE_RULES)
def test_merge_rules(rule):
    a, b = (np.asarray(values, np.int8) for values in zip(*PAIRS, strict=True))
    merged = merge_annotations({"x": a, "y": a}, {"x": b, "z": b}, rule=rule)
    assert merged["x"].tolist() == EXPECTED[rule]
    assert (merged["y"].tolist(), merged["z"].tolist()) == (a.tolist(), b.tolist())
    same = merge_annotations({"x": a}, {"x": a}, {"x": a}, rule=rule)
    np.testing.assert_array_equal(same["x"], a)  # what all say stays
    swapped = merge_annotations({"x": 1 - a * (a >= 0) - 2 * (a < 0)}, rule=rule)["x"]
    assert swapped.tolist() == [0, 0, 0, 1, 1, 1, -1, -1, -1]


def test_merging_refuses_unknown_rules_and_other_lengths():
    with pytest.raises(ValueError, match="consistent"):
        merge_annotations({}, rule="last")
    with pytest.raises(ValueError, match=r"\[2, 3\] rows"):
        merge_annotations({"x": np.zeros(2)}, {"x": np.zeros(3)}, rule="first")


def test_a_missing_value_is_unknown_whatever_its_neighbours_are():
    gaps = np.array(["dog", None, float("nan"), "", "cat"], object)
    assert annotate_categories(gaps, ["dog"])["dog"].tolist() == [1, -1, -1, -1, 0]
    for values in ([True, False], [True, False, None], [1, 0], [1, 0, "", None]):
        column = np.array(values, object)
        found = annotate_column(column, yes=["1"], no=["0"])
        assert found.tolist() == [1, 0, -1, -1][: len(values)]
