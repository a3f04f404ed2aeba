"""The report of evaluators by group: real results, as the page spells them."""

import json

import pytest

from bias_clip.evals import make_evaluator
from bias_clip.report.metric_names import is_share, metric_name
from bias_clip.report.run_charts import MOST_LINES, eval_charts
from bias_clip.report.run_page import quality_tiles, write_report
from bias_clip.report.run_read import read_run
from bias_clip.report.run_tiles import GROUP_TILES
from tests.evals.test_evaluators import ARGUMENTS, make_case
from tests.report.test_run_page import Page

KINDS = tuple(GROUP_TILES)
EVALS = {**ARGUMENTS, "association": {**ARGUMENTS["association"], "min_count": 1}}


@pytest.fixture
def workdir(tmp_path):
    """A run of two evaluations, whose evaluators are named by their kind."""
    source, encode = make_case()
    (tmp_path / "evals").mkdir()
    (tmp_path / "config.json").write_text("{}")
    found = {kind: make_evaluator(kind, source, **EVALS[kind])(encode) for kind in KINDS}
    for kind, (metrics, details) in found.items():
        record = {"step": 8, "metrics": metrics, "details": details}
        (tmp_path / "evals" / f"{kind}.json").write_text(json.dumps(record))
    flat = {f"eval/{k}/{m}": v for k, result in found.items() for m, v in result.metrics.items()}
    lines = [json.dumps({"step": step, **flat}) for step in (4, 8)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def change(path, edit):
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))


def test_every_evaluator_by_group_has_a_tile_with_its_numbers(workdir):
    run = read_run(workdir)
    tiles = {tile.kind: tile for tile in quality_tiles(run)}
    assert set(tiles) == set(KINDS)
    assert all(len(tile.numbers) == 2 and tile.note for tile in tiles.values())
    values = {kind: [number.value for number in tile.numbers] for kind, tile in tiles.items()}
    metrics = {kind: run.evals[kind]["metrics"] for kind in KINDS}
    worst, everyone = metrics["groups"]["acc_worst"], metrics["groups"]["acc"]
    assert values["groups"] == [f"{100 * x:.1f}\u202f%" for x in (worst, everyone)]
    assert values["skew"][0] == f"{metrics['skew']['maxskew_uniform_2']:.2f}"
    for kind, names in {
        "parity": ("parity_max", "parity_mean"),
        "association": ("pairs_max", "pairs_mean"),
        "data_bias": ("representation", "association_max"),
    }.items():
        assert values[kind] == [f"{100 * metrics[kind][name]:.1f}\u202fpp" for name in names]


def test_the_largest_gap_is_named_with_its_sign(workdir):
    rows = [
        {"name": n, "gap": g, "rates": [0, 0]} for n, g in (("a", 0.1), ("b", -0.4), ("c", None))
    ]
    change(workdir / "evals" / "parity.json", lambda r: r["details"].update(classes=rows))
    tile = next(tile for tile in quality_tiles(read_run(workdir)) if tile.kind == "parity")
    assert tile.numbers[0].against == "b −40.0"
    assert "(+: more for woman)" in tile.note


def test_page_speaks_of_shares_as_percentages_and_of_nats_as_numbers(workdir):
    text = Page(write_report(workdir).read_text(encoding="utf-8")).text
    for words in (
        "accuracy, worst group",
        "accuracy, woman",
        "max skew, first 2, equal shares wanted",
        "representation bias of the data",
        "nearer to “man”",
        "effective share of the records",
        "gap between the groups, mean over pairs",
    ):
        assert words in text, words
    assert "in a role" not in text  # that is the other evaluator's
    shares = [
        "acc",
        "acc_of_dark_woman",
        "parity_max",
        "pairs_probability_max",
        "ess",
        "pairs_signed",
    ]
    others = [
        "maxskew_share_10",
        "ndkl_uniform_5",
        "absent",
        "masked",
        "groups",
        "queries",
        "labels",
    ]
    assert all(map(is_share, shares))
    assert not any(map(is_share, others))
    assert metric_name("preference") != metric_name("preference", "representation")


def test_charts_show_each_group_unless_they_are_many(workdir):
    titles = {chart.title: chart for chart in eval_charts(read_run(workdir))}
    assert [line.label for line in titles["groups: each group"].lines] == ["man", "woman"]
    assert [line.label for line in titles["skew: max skew"].lines] == ["first 2", "first 4"]
    assert {"parity: gap", "association: gap", "representation: preference"} <= set(titles)
    many = {f"acc_of_{i}": 0.5 for i in range(MOST_LINES + 1)}
    change(workdir / "evals" / "groups.json", lambda r: r.update(metrics=many))
    assert "groups: each group" not in {c.title for c in eval_charts(read_run(workdir))}


def test_a_group_without_pictures_leaves_gaps_not_numbers(workdir):
    def empty(record):
        record["metrics"] = dict.fromkeys(record["metrics"], float("nan")) | {"absent": 1.0}
        record["details"] |= {"worst": None}
        for row in (*record["details"].get("classes", ()), *record["details"].get("pairs", ())):
            row["gap"] = None

    for kind in KINDS:
        change(workdir / "evals" / f"{kind}.json", empty)
    page = Page(write_report(workdir).read_text(encoding="utf-8"))
    assert "1 of the groups have no picture" in page.text
    assert "nan" not in page.text
