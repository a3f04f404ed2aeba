"""Filters: the rule, the table of 0 and 1, who was dropped, and balancing what a filter kept."""

import json

import numpy as np
import pytest

from bias_clip.cli import balance
from bias_clip.cli.curate import compare_weights
from bias_clip.cli.curate import filter as tool
from bias_clip.curation.captions import Names
from bias_clip.curation.quality.kept import read_kept
from bias_clip.curation.quality.rule import apply_rule
from bias_clip.data.stream.draws import draw_rows, read_weights
from bias_clip.data.tables import write_table
from bias_clip.report.kept import kept_statistics, word_shifts

from ..test_balance_tool import ROWS, annotate, people

COLUMNS = {
    "width": np.array([100, 200, 300]),
    "score": np.array([0.1, np.nan, 0.3]),
    "language": np.array(["en", "de", ""]),
}


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("width >= 200", [0, 1, 1]),
        ("100 < width <= 200", [0, 1, 0]),
        ("score > 0.2", [0, 0, 1]),
        ("not score > 0.2", [1, 1, 0]),
        ("language == 'en' or width == 300", [1, 0, 1]),
        ("language in ('de', 'fr') and score != 1", [0, 1, 0]),
        ("language not in ('de',)", [1, 0, 1]),
        ("score >= -1", [1, 0, 1]),
    ],
)
def test_rules(rule, holds):
    assert apply_rule(rule, COLUMNS).tolist() == [bool(x) for x in holds]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("height > 3", r"names \['height'\]; there are"),
        ("width >", "cannot read the rule"),
        ("width", "where a comparison is expected"),
        ("__import__('os').system('x') == 0", "names"),
        ("width.real > 1", "expected a column, a number or quoted text"),
        ("width > 'a'", "compares text with numbers"),
        ("language > 3", "compares text with numbers"),
        ("width == (1, 2)", "belongs after"),
        ("width in 3", "belongs after"),
    ],
)
def test_bad_rules_say_what_is_wrong(rule, said):
    with pytest.raises(ValueError, match=said):
        apply_rule(rule, COLUMNS)


def quality(folder, seed=1):
    """A score that drops more pilots than others."""
    columns, rng = people(), np.random.default_rng(seed)
    score = rng.random(ROWS) - 0.3 * (columns["pilot"] == 1)
    numbers = {"id": columns["id"], "similarity": score, "utility": np.maximum(score, 0)}
    order = rng.permutation(ROWS)  # the tables are joined by id
    path = folder / "quality.parquet"
    write_table(path, {k: v[order] for k, v in numbers.items()}, {"kind": "measures"})
    return score


def filtered(folder, rule="similarity >= 0.2"):
    words = ["--tables", folder / "quality.parquet", "--annotations"]
    words += [folder / "annotations.parquet", "--rule", rule, "--out", folder / "kept.parquet"]
    tool.main([str(word) for word in (*words, "--report", folder / "report")])


def test_the_tool_says_who_was_dropped(tmp_path, capsys):
    annotate(tmp_path)
    score, columns = quality(tmp_path), people()
    filtered(tmp_path)
    kept = score >= 0.2
    np.testing.assert_array_equal(read_kept(tmp_path / "kept.parquet", columns["id"]), kept)
    found = json.loads((tmp_path / "report" / "filter.json").read_text())["plans"]["filtered"]
    pilot = next(row for row in found["labels"] if row["name"] == "pilot")
    assert pilot["kept"] == pytest.approx(kept[columns["pilot"] == 1].mean())
    assert pilot["low"] < pilot["kept"] < pilot["high"] < found["kept"]
    man = next(row for row in found["groups"] if row["name"] == "man")
    assert man["count"] == (columns["man"] == 1).sum()
    assert "pilot" in capsys.readouterr().out


def test_intervals_hold_what_they_say():
    """Of 200 filters with known chances, about 95 % of intervals contain the chance."""
    rng, hits = np.random.default_rng(0), 0
    columns = {"man": np.ones(60, np.int8)}
    for _ in range(200):
        kept = (rng.random(60) < 0.9).astype(float)
        row = kept_statistics(columns, Names(("man",)), {"f": kept})["plans"]["f"]["groups"][0]
        hits += row["low"] <= 0.9 <= row["high"]
    assert 180 <= hits <= 199


def test_bias_that_a_filter_makes_is_told_from_none(tmp_path):
    columns, rng = people(), np.random.default_rng(0)
    names = Names(("man",), ("nurse", "pilot"))
    biased = np.where((columns["pilot"] == 1) & (columns["man"] == 0), 0.0, 1.0)
    fair = (rng.random(ROWS) < 0.8).astype(float)
    plans = kept_statistics(columns, names, {"biased": biased, "fair": fair})["plans"]
    moved = {name: plans[name]["association"]["moved_mean"] for name in ("biased", "fair")}
    assert moved["biased"]["low"] > 0
    assert moved["fair"]["low"] < 0 < moved["fair"]["high"]


def test_filter_then_balance_never_draws_a_dropped_row(tmp_path, capsys):
    annotate(tmp_path)
    score = quality(tmp_path)
    filtered(tmp_path)
    words = ["--annotations", "annotations.parquet", "--out", "both.parquet", "--filter"]
    balance.main([str(tmp_path / w) if "." in w else w for w in (*words, "kept.parquet")])
    weighted = read_weights(str(tmp_path / "both.parquet"), people()["id"])
    assert not weighted.weights[score < 0.2].any()
    assert weighted.weights[score >= 0.2].mean() == pytest.approx(0.9, abs=0.01)
    rows = draw_rows(weighted, 0, None)
    assert (score[rows] >= 0.2).all()
    assert len(rows) == pytest.approx(weighted.weights.sum(), abs=1)
    joint = ["--annotations", "annotations.parquet", "--out", "joint.parquet", "--utility"]
    given = [str(tmp_path / w) if "." in w else w for w in (*joint, "quality.parquet", "utility")]
    balance.main([*given, "--eta", "0.7"])
    compare_weights.main(
        [
            *("--annotations", str(tmp_path / "annotations.parquet")),
            *("--tables", str(tmp_path / "quality.parquet"), "--weights"),
            *(f"{n}={tmp_path / n}.parquet" for n in ("kept", "both", "joint")),
            *("--json", str(tmp_path / "c.json")),
        ]
    )
    plans = json.loads((tmp_path / "c.json").read_text())["plans"]
    assert list(plans) == ["as it is", "kept", "both", "joint"]
    assert plans["both"]["association"]["largest"] < plans["kept"]["association"]["largest"]
    # The joint solve prefers similar pairs without a threshold.
    assert plans["as it is"]["similarity"] < plans["joint"]["similarity"]
    out = capsys.readouterr().out
    assert "joint" in out


def test_what_cannot_be_filtered_is_refused(tmp_path):
    annotate(tmp_path)
    quality(tmp_path)
    with pytest.raises(SystemExit, match=r"keeps none of 3000 examples; values: .*similarity"):
        filtered(tmp_path, "similarity > 5")
    twice = [str(tmp_path / "quality.parquet")] * 2
    with pytest.raises(SystemExit, match="are in an earlier table too"):
        tool.main(["--tables", *twice, "--rule", "similarity > 0", "--out", str(tmp_path / "k")])
    other = {"id": np.array(["a"]), "weight": np.ones(1)}
    write_table(tmp_path / "w", other, {"kind": "weights"})
    with pytest.raises(ValueError, match="not of a filter"):
        read_kept(tmp_path / "w", other["id"])


def test_shares_of_words_follow_the_weights():
    found = word_shifts(
        ["A cat, a CAT", "the cat", "dog", "dog 7"], {"half": np.array([1.0, 0, 0, 1])}, words=2
    )
    assert found == {"cat": {"as it is": 0.5, "half": 0.5}, "dog": {"as it is": 0.5, "half": 0.5}}
    one = word_shifts(["cat", "dog"], {"w": np.array([3.0, 1.0])})
    assert one["cat"]["w"] == 0.75
