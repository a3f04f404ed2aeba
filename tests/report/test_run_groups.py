"""The report of every evaluator: real results, as the page writes them."""

import json

import pytest

from bias_clip.core.formatting import format_unit
from bias_clip.evals import EVALUATORS, make_evaluator
from bias_clip.evals.headlines import find_metric
from bias_clip.report.run_charts import MOST_LINES, eval_charts
from bias_clip.report.run_page import quality_tiles, write_report
from bias_clip.report.run_read import read_run
from tests.evals.test_evaluators import ARGUMENTS, make_case
from tests.report.test_run_page import Page

KINDS = tuple(sorted(EVALUATORS))
BY_GROUP = ("association", "data_bias", "groups", "parity", "representation", "skew")
EVALS = {**ARGUMENTS, "association": {**ARGUMENTS["association"], "min_count": 1}}


@pytest.fixture
def workdir(tmp_path):
    """A run of two evaluations, whose evaluators are named by their kind."""
    source, encode = make_case()
    (tmp_path / "evals").mkdir()
    (tmp_path / "config.json").write_text("{}")
    more = {kind: {"train_source": source} for kind in ("factors", "probe")}
    found = {
        kind: make_evaluator(kind, source, **EVALS[kind], **more.get(kind, {}))(encode)
        for kind in KINDS
    }
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


def test_every_evaluator_has_a_tile_with_its_headlines(workdir):
    run = read_run(workdir)
    tiles = {tile.kind: tile for tile in quality_tiles(run)}
    assert set(tiles) == set(KINDS)
    assert all(tile.numbers and tile.note and "{" not in tile.note for tile in tiles.values())
    values = {kind: [number.value for number in tile.numbers] for kind, tile in tiles.items()}
    for kind, names in {
        "groups": ("acc_worst", "acc"),
        "parity": ("parity_max", "parity_mean"),
        "association": ("pairs_max", "pairs_mean"),
        "data_bias": ("representation", "association_max"),
        "skew": ("maxskew_uniform_2", "ndkl_uniform_2"),
        "zeroshot": ("acc1",),
        "winoground": ("acc", "text_acc", "image_acc"),
        "factors": ("acc1", "acc1_min"),
    }.items():
        metrics, details = run.evals[kind]["metrics"], run.evals[kind]["details"]
        expected = [format_unit(metrics[n], find_metric(n, details).unit) for n in names]
        assert values[kind][: len(names)] == expected, kind
    assert values["groups"][0].endswith("%")
    assert values["parity"][0].endswith("pp")


def test_tiles_come_by_importance_and_not_by_name(workdir):
    kinds = [tile.kind for tile in quality_tiles(read_run(workdir))]
    assert kinds[:2] == ["zeroshot", "retrieval"]
    assert kinds.index("winoground") < kinds.index("bias") < kinds.index("data_bias")
    assert kinds[-1] == "contrastive"


def test_the_largest_gap_is_named_with_its_sign(workdir):
    rows = [
        {"name": n, "gap": g, "rates": [0, 0]} for n, g in (("a", 0.1), ("b", -0.4), ("c", None))
    ]
    change(workdir / "evals" / "parity.json", lambda r: r["details"].update(classes=rows))
    tile = next(tile for tile in quality_tiles(read_run(workdir)) if tile.kind == "parity")
    assert tile.numbers[0].against == "b −40.0"
    assert "A positive gap means more often for woman." in tile.note


def test_page_speaks_of_shares_as_percentages_and_of_nats_as_numbers(workdir):
    text = Page(write_report(workdir).read_text(encoding="utf-8")).text
    for words in (
        "accuracy, worst group",
        "accuracy, woman",
        "max skew, first 2, target uniform",
        "representation bias of the data",
        "nearer to “man”",
        "effective share of the records",
        "gap between the groups, mean over pairs",
    ):
        assert words in text, words
    assert "first group" not in text  # the groups have names


def test_every_evaluator_has_a_chart(workdir):
    titles = [chart.title for chart in eval_charts(read_run(workdir))]
    for kind in KINDS:
        name = kind.replace("_", " ")
        assert any(title == name or title.startswith(f"{name}: ") for title in titles), kind


def test_charts_show_each_group_unless_they_are_many(workdir):
    titles = {chart.title: chart for chart in eval_charts(read_run(workdir))}
    assert [line.label for line in titles["groups: each group"].lines] == ["man", "woman"]
    assert [line.label for line in titles["skew: max skew"].lines] == [
        f"max skew, first {k}, {target}" for target in ("uniform", "share") for k in (2, 4)
    ]
    assert titles["zeroshot"].lines[-1].label == "chance"
    assert titles["zeroshot"].lines[-1].dashed
    many = {f"acc_of_{i}": 0.5 for i in range(MOST_LINES + 1)}
    change(workdir / "evals" / "groups.json", lambda r: r.update(metrics=many))
    assert "groups: each group" not in {c.title for c in eval_charts(read_run(workdir))}


def test_a_group_without_images_leaves_gaps_not_numbers(workdir):
    def empty(record):
        record["metrics"] = dict.fromkeys(record["metrics"], float("nan")) | {"absent": 1.0}
        record["details"] |= {"worst": None}
        for row in (*record["details"].get("classes", ()), *record["details"].get("pairs", ())):
            row["gap"] = None

    for kind in BY_GROUP:
        change(workdir / "evals" / f"{kind}.json", empty)
    page = Page(write_report(workdir).read_text(encoding="utf-8"))
    assert "1 of the groups have no image" in page.text
    assert "nan" not in page.text
