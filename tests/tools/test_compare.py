"""Groups of runs side by side."""

import json

import matplotlib
import pytest

from bias_clip.cli.compare import compare, make_table, read_group, split_group


def write_run(folder, value, name="acc1"):
    (folder / "evals").mkdir(parents=True)
    record = {"step": 3, "metrics": {name: value}, "details": {}}
    (folder / "evals" / "style.json").write_text(json.dumps(record))
    return folder


def test_values_are_averaged(tmp_path):
    runs = [write_run(tmp_path / "a", 0.2), write_run(tmp_path / "b", 0.4)]
    group = read_group(runs)
    assert group == {"style/acc1": [0.2, 0.4]}
    table = make_table({"plain": group, "one": {"style/acc1": [0.5]}}, ["acc"])
    assert table[0] == "| | plain | one |"
    assert table[2] == "| style/acc1 | 0.300 ± 0.141 | 0.500 |"


def test_runs_that_cannot_be_compared_are_named(tmp_path):
    one, other = write_run(tmp_path / "a", 0.1), write_run(tmp_path / "b", 0.1, name="other")
    with pytest.raises(
        ValueError, match=r"differ in what they measured: \['style/acc1', 'style/other'\]"
    ):
        read_group([one, other])
    with pytest.raises(ValueError, match="is the run finished"):
        read_group([tmp_path])
    with pytest.raises(ValueError, match="'acc2' finds none of the metrics"):
        make_table({"plain": read_group([one])}, ["acc2"])
    with pytest.raises(ValueError, match="expected a name and workdirs"):
        split_group("runs/a")


def test_a_plot_has_a_panel_for_each_metric(tmp_path):
    matplotlib.use("agg")
    path = tmp_path / "plot.png"
    groups = {"plain": [write_run(tmp_path / "a", 0.2)], "other": [write_run(tmp_path / "b", 0.4)]}
    compare(groups, ["acc"], plot_path=path, json_path=tmp_path / "all.json")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "all.json").read_text())["other"] == {"style/acc1": [0.4]}
