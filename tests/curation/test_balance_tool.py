"""Weights from annotations: the tool end to end, its report, what it refuses, and interruptions."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bias_clip.balancing import (
    association_bias,
    keep_balanced,
    make_problem,
    representation_bias,
)
from bias_clip.balancing.balanced_draw import cells_from_json
from bias_clip.cli import balance as tool
from bias_clip.curation import weights as balance_table
from bias_clip.data.tables import join, manifest_path, read_manifest, read_table, write_table
from bias_clip.report import balancing, balancing_page, balancing_text

KINDS = {"attributes": ["man"], "labels": ["nurse", "pilot"], "proxies": ["cockpit"]}
ROWS = 3000
HALF = np.array([0.5])


def people(rows=ROWS, seed=0):
    """Columns of a data set that shows mostly men, as pilots, and women as nurses."""
    rng = np.random.default_rng(seed)
    man = np.where(rng.random(rows) < 0.5, -1, rng.random(rows) < 0.62).astype(np.int8)
    pilot = (rng.random(rows) < 0.1 + 0.1 * (man == 1)).astype(np.int8)
    nurse = (rng.random(rows) < 0.1 + 0.1 * (man == 0)).astype(np.int8)
    cockpit = (rng.random(rows) < 0.05 + 0.6 * pilot).astype(np.int8)
    columns = {"man": man, "nurse": nurse, "pilot": pilot, "cockpit": cockpit}
    return {"id": np.asarray([f"image-{i}" for i in range(rows)]), **columns}


def annotate(folder, columns=None, **changes):
    manifest = {"kind": "annotations", **KINDS, "source": {"name": "people"}, **changes}
    path = folder / "annotations.parquet"
    write_table(path, people() if columns is None else columns, manifest)
    return path


def run_tool(folder, *words):
    given = ("--annotations", folder / "annotations.parquet", "--out", folder / "weights.parquet")
    tool.main([str(word) for word in (*given, *words)])
    return read_table(folder / "weights.parquet", kind="weights")


def drawn_from(table, ids):
    """What `keep_balanced` takes, as a reader of the table has it."""
    found = join(table, ids)
    return (
        ids,
        found["weight"],
        found["cell"].astype(np.int64),
        cells_from_json(table.manifest["cells"]),
    )


def test_the_tool_end_to_end(tmp_path, capsys):
    annotate(tmp_path)
    columns = people()
    table = run_tool(tmp_path, "--report", tmp_path / "report", "--seed", 3, "--eta", 0.8)
    weight = join(table, columns["id"])["weight"]
    man, nurse = (columns[name][:, None] for name in ("man", "nurse"))
    assert weight.dtype == np.float64
    assert weight.mean() == pytest.approx(0.8)
    assert table.manifest["solution"]["feasible"]
    known = man[:, 0] >= 0
    bound = 0.01 * 0.8 * known.sum() / weight[known].sum()  # eps over what is left of the known
    assert abs(representation_bias(man, HALF, weight)[0]) < bound + 1e-9

    found = json.loads((tmp_path / "report" / "report.json").read_text())
    copies = keep_balanced(3, *drawn_from(table, columns["id"]))
    stages = {"before": np.ones(ROWS), "weighted": weight, "drawn": copies.astype(float)}
    for stage, weights in stages.items():
        bias = representation_bias(man, HALF, weights)[0]
        gap = association_bias(man, nurse, weights).gap[0, 0]
        assert found["groups"][0]["bias"][stage] == pytest.approx(bias, abs=1e-12)
        assert found["pairs"][0]["gap"][stage] == pytest.approx(gap, abs=1e-12)
    largest = found["largest"]
    for key in ("representation", "association"):
        assert largest["weighted"][key] < 0.25 * largest["before"][key]
        assert largest["drawn"][key] < largest["before"][key]
    assert found["draw"]["kept"] == (copies > 0).sum()
    effective = weight.sum() ** 2 / (weight**2).sum()
    assert found["weights"]["effective"] == pytest.approx(effective)
    assert sum(found["weights"]["histogram"]["rows"]) == ROWS

    text = (tmp_path / "report" / "report.txt").read_text()
    assert text.strip() in capsys.readouterr().out
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<svg") == page.count("</svg>") == 4  # groups, gaps, shifts, weights
    assert not re.search(r'(src|href)="(?!#)', page)  # needs no other file
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == sorted(tool.REPORT)


def test_the_manifest_is_enough_to_compute_the_weights_anew(tmp_path):
    annotate(tmp_path)
    columns = people()
    utility = np.linspace(0.5, 1.5, ROWS)
    pq.write_table(
        pa.table({"id": columns["id"].tolist(), "quality": utility}), tmp_path / "u.parquet"
    )
    table = run_tool(tmp_path, "--utility", tmp_path / "u.parquet", "quality", "--buckets", 4)
    config, solution = table.manifest["config"], table.manifest["solution"]
    problem, edges = config["problem"], np.asarray(config["utility"]["edges"])
    assert len(edges) == 5
    at = np.minimum(np.searchsorted(edges, utility, side="right"), 4)
    u = (edges[at - 1] + edges[at]) / 2
    z = np.where(columns["man"] < 0, 0, columns["man"] - problem["targets"][0])
    y = np.stack([*(columns[n] == 1 for n in problem["labels"]), np.ones(ROWS)], axis=1)
    v = np.asarray(solution["v"])
    pull = (z[:, None] * y) @ (v[0] - v[1])[0]
    weight = np.clip(solution["eta"] * u / u.mean() - pull - solution["mu"], 0, problem["cap"])
    np.testing.assert_allclose(table.columns["weight"], weight, atol=1e-9)
    annotations = read_manifest(tmp_path / "annotations.parquet", kind="annotations")
    assert table.manifest["annotations"]["file_sha256"] == annotations["file_sha256"]
    assert table.manifest["ids_sha256"] == annotations["ids_sha256"]


def test_weights_are_the_same_bits_in_any_order_of_the_rows(tmp_path):
    columns, order = people(), np.random.default_rng(1).permutation(ROWS)
    weights = []
    for name, rows in (("a", np.arange(ROWS)), ("b", order)):
        (tmp_path / name).mkdir()
        annotate(tmp_path / name, {key: values[rows] for key, values in columns.items()})
        table = run_tool(tmp_path / name, "--report", tmp_path / name / "report")
        weights.append(join(table, columns["id"])["weight"])
    np.testing.assert_array_equal(*weights)
    one, two = (
        json.loads((tmp_path / n / "report" / "report.json").read_text()) | {"weights_table": None}
        for n in ("a", "b")
    )
    assert one == two


def test_the_flags_reach_the_problem(tmp_path):
    columns = people()
    columns["old"] = np.tile(np.int8([1, 0, 0]), ROWS // 3)
    annotate(tmp_path, columns, attributes=["man", "old"])
    words = ("--targets", "man=0.55", "old=0.3", "--intersections", "man+old=0.17", "--eta", "max")
    words += ("--labels", "pilot", "--proxies", "nurse", "--q", 1.5, "--v", 20)
    words += ("--eps", 0.02, "nurse=inf", "man+old=0.05", "--tolerance", "relative")
    table = run_tool(tmp_path, *words)
    problem = dict(table.manifest["config"]["problem"])
    assert problem == balance_table.plain(
        vars(
            make_problem(
                {"man": 0.55, "old": 0.3},
                ["pilot"],
                proxies=["nurse"],
                intersections={("man", "old"): 0.17},
                eps_representation={"man": 0.02, "old": 0.02, "man & old": 0.05},
                eps_association={"pilot": 0.02, "nurse": np.inf},
                tolerance="relative",
                penalty=20.0,
                eta="max",
                cap=1.5,
            )
        )
    )
    assert table.columns["weight"].max() <= 1.5
    assert table.manifest["solution"]["eta"] == pytest.approx(table.columns["weight"].mean())
    (tmp_path / "weights.parquet.json").unlink()
    without = run_tool(tmp_path, "--targets", "man=0.5", "--no-proxies")
    assert without.manifest["config"]["problem"]["proxies"] == []


def test_what_cannot_be_met_is_said_first_with_the_largest_rate(tmp_path, capsys):
    annotate(tmp_path)
    table = run_tool(tmp_path, "--eta", 0.99, "--report", tmp_path / "report")
    assert not table.manifest["solution"]["feasible"]
    assert table.manifest["solution"]["violated"]
    said = re.search(
        r"NOT FEASIBLE.*largest eta at which all hold is (\d\.\d+)\.", capsys.readouterr().out
    )
    assert "NOT FEASIBLE" in (tmp_path / "report" / "report.html").read_text()
    (tmp_path / "weights.parquet.json").unlink()
    assert run_tool(tmp_path, "--eta", float(said[1]) - 1e-3).manifest["solution"]["feasible"]


def test_a_one_sided_label_is_refused_freed_or_reported_as_vanishing(tmp_path, capsys):
    columns = people()
    columns["nurse"] = ((columns["man"] == 0) & (columns["cockpit"] == 0)).astype(np.int8)
    columns["nurse"][::2] = 0
    annotate(tmp_path, columns)
    words = ("--eta", 0.5, "--eps", 0.001)
    with pytest.raises(SystemExit, match=r"label nurse .*--min-per-side 10 frees"):
        run_tool(tmp_path, *words)
    assert not (tmp_path / "weights.parquet").exists()
    assert "VANISHED" not in capsys.readouterr().out
    run_tool(tmp_path, *words, "--min-retained", 0)
    assert "VANISHED: 1 labels all but lose their examples: nurse." in capsys.readouterr().out
    (tmp_path / "weights.parquet.json").unlink()
    table = run_tool(tmp_path, *words, "--min-per-side", 1)
    assert table.manifest["config"]["problem"]["eps_association"] == [None, 0.001, 0.001]
    text = capsys.readouterr().out
    assert re.search(r"1 labels are not balanced .* points; .*: nurse\.", text)
    assert "nurse (free)" in text
    assert "most between groups was nurse" not in text


def spoilt(name, values):
    return {**people(), name: values}


@pytest.mark.parametrize(
    ("columns", "changes", "words", "message"),
    [
        (None, {}, ["--targets", "woman=0.5"], r"no columns \['woman'\]; it has \['man', 'nurse'"),
        (None, {}, ["--targets", "man"], "such as man=0.5"),
        (None, {}, ["--targets", "man=half"], "got 'half', expected a number"),
        (None, {}, ["--targets", "man=1.5"], r"expected a share in \[0, 1\]"),
        (None, {}, ["--targets", "man=0.5", "man=0.4"], "given twice"),
        (None, {}, ["--targets", "man=0.9", "cockpit=0.1"], r"\['cockpit'\] are attributes and l"),
        (None, {"attributes": ["man", "pilot"]}, [], "expected --targets"),
        (None, {}, ["--labels", "nurse,nurse"], r"distinct names, not \['nurse'\]"),
        (None, {}, ["--labels", "nurs"], r"no columns \['nurs'\]"),
        (None, {}, ["--labels", "id"], r"no columns \['id'\]"),
        (None, {}, ["--eta", "1.2"], "eta: got 1.2 with cap 1.0; expected 0 < eta <= cap"),
        (None, {}, ["--eta", "nan"], "eta: got nan"),
        (None, {}, ["--v", "-1"], "penalty: got -1"),
        (None, {}, ["--eps", "-1"], "eps_representation: got"),
        (None, {}, ["--eps", "0.1", "nurs=1"], r"--eps: got \['nurs'\], expected names of"),
        (None, {}, ["--min-retained", "2"], "min_retained: got 2"),
        (None, {}, ["--utility", "quality"], r"no columns \['quality'\]"),
        (None, {}, ["--utility", "none.parquet", "quality"], "no file of scores none.parquet"),
        (spoilt("nurse", np.full(ROWS, 2)), {}, [], r"'nurse': got \[2, 2.*expected 1, 0, or -1"),
        (spoilt("nurse", np.full(ROWS, np.nan)), {}, [], r"'nurse': got \[nan"),
        (spoilt("man", np.ones(ROWS, int)), {}, [], "group 'man': got 3000 of 3000 rows"),
        (spoilt("man", -np.ones(ROWS, int)), {}, [], "group 'man': got 0 of 0 rows"),
        (spoilt("q", np.full(ROWS, np.nan)), {}, ["--utility", "q"], r"3000 of 3000 values.*nan"),
        (spoilt("q", np.full(ROWS, -1.0)), {}, ["--utility", "q"], "are negative or not finite"),
        (spoilt("q", np.zeros(ROWS)), {}, ["--utility", "q"], "got 0 for all rows"),
        (spoilt("q", people()["id"]), {}, ["--utility", "q"], "expected numbers"),
        (None, {"kind": "clusters"}, [], "table of 'clusters', expected one of 'annotations'"),
    ],
)
def test_the_tool_says_what_is_wrong_before_it_writes(tmp_path, columns, changes, words, message):
    annotate(tmp_path, columns, **changes)
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run_tool(tmp_path, *words)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "annotations.parquet",
        "annotations.parquet.json",
    ]


def test_targets_that_contradict_each_other_do_not_delete_people(tmp_path):
    columns = people()
    columns["woman"] = np.where(columns["man"] < 0, -1, 1 - columns["man"]).astype(np.int8)
    annotate(tmp_path, columns)
    words = ("--targets", "man=0.7", "woman=0.7", "--eta", 0.4, "--labels", "")
    with pytest.raises(SystemExit, match=r"Make the targets agree.*Flags: --targets"):
        run_tool(tmp_path, *words)


def test_scores_of_another_data_set_or_of_some_examples_are_refused(tmp_path):
    annotate(tmp_path)
    file, ids = tmp_path / "u.parquet", people()["id"].tolist()
    words = ("--utility", file, "quality")
    for these, message in (
        ([f"other-{i}" for i in ids], "It is of another data set"),
        (ids[:-2], r"lacks 2 of 3000 examples: \['image-2998', 'image-2999'\]"),
    ):
        pq.write_table(pa.table({"id": these, "quality": np.ones(len(these))}), file)
        with pytest.raises(SystemExit, match=message):
            run_tool(tmp_path, *words)
    same = [ids, ids]
    pq.write_table(pa.Table.from_arrays([pa.array(x) for x in same], ["id", "id"]), file)
    with pytest.raises(SystemExit, match=r"does not have \['id', 'quality'\] once each"):
        run_tool(tmp_path, *words)


def test_an_annotations_table_that_is_unfinished_or_changed_is_refused(tmp_path):
    path = annotate(tmp_path)
    pq.write_table(pq.read_table(path).slice(0, 100), path)
    with pytest.raises(SystemExit, match="is not the file that"):
        run_tool(tmp_path)
    manifest_path(path).unlink()
    with pytest.raises(SystemExit, match="is unfinished"):
        run_tool(tmp_path)
    path.unlink()
    with pytest.raises(SystemExit, match="there is no table"):
        run_tool(tmp_path)


def test_an_interrupted_tool_leaves_no_table_and_starts_again(tmp_path, monkeypatch):
    annotate(tmp_path)

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(balance_table, "lookup", stop)
        with pytest.raises(KeyboardInterrupt):
            run_tool(tmp_path, "--report", tmp_path / "report")
    with pytest.raises(ValueError, match="no table"):
        read_table(tmp_path / "weights.parquet", kind="weights")
    assert not (tmp_path / "report").exists()
    first = run_tool(tmp_path, "--report", tmp_path / "report")
    with monkeypatch.context() as broken:
        broken.setattr(balancing_page, "row_charts", stop)
        with pytest.raises(KeyboardInterrupt):
            run_tool(tmp_path, "--report", tmp_path / "report")
    again = read_table(tmp_path / "weights.parquet", kind="weights")
    np.testing.assert_array_equal(first.columns["weight"], again.columns["weight"])
    assert first.manifest == again.manifest


def test_finished_weights_of_another_configuration_are_not_replaced(tmp_path):
    path = annotate(tmp_path)
    run_tool(tmp_path)
    before = (tmp_path / "weights.parquet").stat().st_mtime_ns
    with pytest.raises(
        SystemExit, match=r"other weights \(config.problem.eta: 0.9 there, 0.8 now\). Del"
    ):
        run_tool(tmp_path, "--eta", 0.8)
    with pytest.raises(SystemExit, match="expected one of 'weights'"):
        tool.main(["--annotations", str(path), "--out", str(path)])
    annotate(tmp_path, people(seed=1))
    with pytest.raises(
        SystemExit, match=r"other weights \(annotations.file_sha256: .* there, .* now\). Del"
    ):
        run_tool(tmp_path)
    assert (tmp_path / "weights.parquet").stat().st_mtime_ns == before


def test_copies_above_one_are_counted_in_the_draw(tmp_path):
    annotate(tmp_path)
    table = run_tool(tmp_path, "--eta", 1.0, "--q", 3, "--report", tmp_path / "report")
    draw = json.loads((tmp_path / "report" / "report.json").read_text())["draw"]
    copies = keep_balanced(0, *drawn_from(table, table.columns["id"]))
    assert copies.max() > 1
    assert draw["copies"] == copies.sum()
    assert draw["kept"] == (copies > 0).sum()
    assert draw["effective"] == pytest.approx(copies.sum() ** 2 / (copies**2).sum())


def test_a_report_without_labels_can_be_shown(tmp_path):
    annotate(tmp_path)
    run_tool(tmp_path, "--labels", "", "--no-proxies", "--report", tmp_path / "report")
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert found["largest"]["before"]["association"] is None
    assert balancing.largest_gaps(found, "man") == []
    assert "the target is 50.00%" in balancing_text.to_text(found)


def test_a_label_vanishes_without_weight_or_without_a_drawn_example_but_not_if_nobody_had_it():
    row = {"count": 9, "kept": 0.9, "drawn_count": 5}
    kinds = {"stays": {}, "light": {"kept": 0.005}, "undrawn": {"drawn_count": 0}}
    rows = [{"name": name, **row, **change} for name, change in kinds.items()]
    rows.append({"name": "never", "count": 0, "kept": None, "drawn_count": 0})
    assert balancing.vanished({"labels": rows}) == ["light", "undrawn"]
