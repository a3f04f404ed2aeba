"""Groups of runs side by side."""

import json

import pytest

from bias_clip.cli.compare import compare, make_table, read_group, read_groups
from bias_clip.report.comparison import render_comparison
from tests.report.test_run_page import Page


def write_run(folder, value, name="acc1"):
    (folder / "evals").mkdir(parents=True)
    record = {"step": 3, "metrics": {name: value}, "details": {}}
    (folder / "evals" / "style.json").write_text(json.dumps(record))
    return folder


def test_values_are_averaged(tmp_path):
    runs = [write_run(tmp_path / "a", 0.2), write_run(tmp_path / "b", 0.4)]
    group = read_group(runs)
    assert group == {"style/acc1": [0.2, 0.4]}
    table = make_table({"plain": group, "one": {"style/acc1": [0.5]}}, ["acc"], {})
    assert table[0] == "| | plain | one |"
    assert table[2] == "| style/acc1 | 0.300 ± 0.141 | 0.500 |"


def test_values_have_their_unit_and_arrows_point_to_the_better_side():
    group = {
        "gender/association_mean": [0.1],
        "gender/stereotype_gap": [-0.02],
        "style/acc1": [0.2],
    }
    details = {"style": {"kind": "zeroshot"}, "gender": {"kind": "bias"}}
    assert make_table({"a": group}, [""], details)[2:] == [  # the quality first
        "| style/acc1 ↑ | 20.0\u202f% |",
        "| gender/association_mean ↓ | 10.0\u202fpp |",
        "| gender/stereotype_gap | −2.0\u202fpp |",
    ]


def test_a_deviation_has_the_unit_of_its_mean_and_no_sign():
    group = {"gender/stereotype_gap": [0.1, 0.3], "style/acc1": [0.2, 0.2]}
    details = {"gender": {"kind": "bias"}, "style": {"kind": "zeroshot"}}
    lines = make_table({"a": group}, [""], details)[2:]
    assert lines[0] == "| style/acc1 ↑ | 20.0 ± 0.0\u202f% |"
    assert lines[1] == "| gender/stereotype_gap | +20.0 ± 14.1\u202fpp |"


def test_runs_that_cannot_be_compared_are_named(tmp_path):
    one, other = write_run(tmp_path / "a", 0.1), write_run(tmp_path / "b", 0.1, name="other")
    with pytest.raises(
        ValueError, match=r"differ in what they measured: \['style/acc1', 'style/other'\]"
    ):
        read_group([one, other])
    with pytest.raises(ValueError, match="is the run finished"):
        read_group([tmp_path])
    with pytest.raises(ValueError, match="'acc2' finds none of the metrics"):
        make_table({"plain": read_group([one])}, ["acc2"], {})
    with pytest.raises(ValueError, match="such as plain=runs/a"):
        read_groups(["runs/a"])


def test_a_page_has_a_chart_for_each_metric_and_a_dot_for_each_run(tmp_path):
    path = tmp_path / "page.html"
    plain = [write_run(tmp_path / name, value) for name, value in (("a", 0.2), ("b", 0.3))]
    groups = {"plain": plain, "<other>": [write_run(tmp_path / "c", 0.4)]}
    compare(groups, ["acc"], plot_path=path, json_path=str(tmp_path / "all.json"))
    page = Page(path.read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("svg") == 1
    assert [tag for tag, _ in page.tags].count("circle") == 3
    assert "<other>" in page.text
    assert json.loads((tmp_path / "all.json").read_text())["<other>"] == {"style/acc1": [0.4]}


def test_a_plot_that_is_not_a_page_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.html"):
        compare({"plain": [write_run(tmp_path / "a", 0.2)]}, [""], plot_path=tmp_path / "plot.png")


def test_arrows_stay_with_the_last_word_on_the_page():
    details = {"style": {"kind": "zeroshot"}}
    page = render_comparison({"plain": {"style/acc1": [0.2]}}, ["style/acc1"], details)
    assert page.count("\u00a0↑") == 3  # the title of the chart, the label of its image, the row
