"""Rows that come in any order, in any parts: the same shards, the same counts as of one process."""

import sys

import numpy as np
import pytest

from bias_clip.balancing import make_problem, merge, solve
from bias_clip.cli import beam_annotate as tool
from bias_clip.curation import weights as balance_table
from bias_clip.curation.annotate_source import annotate_source
from bias_clip.curation.counts_file import counts_to_bytes, read_counts
from bias_clip.curation.rows import (
    SEED,
    Fields,
    Plan,
    annotate_rows,
    count_columns,
    join_columns,
    make_annotators,
    plan_names,
    row_of,
    row_of_json,
    split_columns,
)
from bias_clip.data.tables import join, read_manifest, read_table, write_table
from tests.curation.samples import FIELDS, LISTS, PLAN, annotated, counted, records


class Records:
    """Records as a source."""

    def __init__(self, given):
        self._given = given

    def __len__(self):
        return len(self._given)

    def __getitem__(self, index):
        record = self._given[index]
        return {"id": record["id"], "captions": (record["caption"],), "age": record["age"]}


def sharded(given, num_parts, num_shards):
    """As the pipeline does it: parts are annotated alone, then their rows go to shards."""
    parts: dict[int, list] = {}
    for i in range(num_parts):
        rows = [row_of(record, FIELDS) for record in given[i::num_parts]]
        columns = annotate_rows(rows, make_annotators(PLAN), PLAN.rule)
        for shard, own in split_columns(columns, num_shards):
            parts.setdefault(shard, []).append(own)
    return {shard: join_columns(some[::-1]) for shard, some in parts.items()}


def test_rows_are_annotated_as_a_source_is(tmp_path):
    given = records(40)
    made = [*make_annotators(PLAN)]
    annotate_source(Records(given), tmp_path / "t.parquet", made, about={})
    table = join(read_table(tmp_path / "t.parquet", kind="annotations"), annotated(given)["id"])
    assert list(table) == list(annotated(given))
    for name, values in annotated(given).items():
        np.testing.assert_array_equal(table[name], values)
    assert {-1, 0, 1} <= set(table["old"].tolist())


@pytest.mark.parametrize("num_shards", [1, 3, 8])
def test_shards_do_not_depend_on_how_rows_came(num_shards):
    given = records(50)
    once, again = sharded(given, 1, num_shards), sharded(given[::-1], 7, num_shards)
    assert once.keys() == again.keys()
    assert sum(len(columns["id"]) for columns in once.values()) == 50
    for shard, columns in once.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(again[shard][name], values)


@pytest.mark.parametrize("num_shards", [1, 3, 8])
def test_counts_of_shards_are_bit_for_bit_those_of_one_process(num_shards):
    given, names = records(50), plan_names(PLAN)
    tables = [count_columns(columns, names) for columns in sharded(given, 4, num_shards).values()]
    whole, _ = counted(given)
    assert counts_to_bytes(merge(tables), names) == counts_to_bytes(whole, names)
    assert counts_to_bytes(merge(tables[::-1]), names) == counts_to_bytes(whole, names)


def test_an_id_that_comes_twice_meets_itself():
    given = records(30)
    with pytest.raises(ValueError, match=r"1 ids come twice, such as \['x7'\]"):
        sharded([*given, given[7]], 3, 5)


def test_counts_come_back_from_their_file(tmp_path):
    table, names = counted(records(50))
    (tmp_path / "c.parquet").write_bytes(counts_to_bytes(table, names))
    found = read_counts(tmp_path / "c.parquet")
    assert found.names == names
    for a, b in zip(found.table, table, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_another_file_is_no_table_of_counts(tmp_path):
    write_table(tmp_path / "t.parquet", annotated(records(5)), {"kind": "annotations"})
    with pytest.raises(ValueError, match="not a table of counts"):
        read_counts(tmp_path / "t.parquet")
    table, names = counted(records(5))
    with pytest.raises(ValueError, match="expected as many as names"):
        counts_to_bytes(table, names._replace(proxies=()))
    with pytest.raises(ValueError, match="'count'"):
        counts_to_bytes(table, names._replace(proxies=("count",)))


def test_weights_of_shards_are_those_of_the_whole(tmp_path):
    """What docs/balancing.md does after the pipeline."""
    given = records(400)
    table, names = counted(given)
    labels = (*names.labels, *names.proxies)
    problem = make_problem(dict.fromkeys(names.attributes, 0.5), labels, eta=0.7)
    solution = solve(table, problem, min_retained=0.0)
    about = {**names._asdict(), "source": {}}
    weights = {}
    for shard, columns in sharded(given, 3, 4).items():
        path = tmp_path / f"a{shard}.parquet"
        write_table(path, columns, {"kind": "annotations", **about})
        own = read_manifest(path, kind="annotations")
        part = balance_table.Counted(table, own, None)
        manifest = balance_table.make_manifest(part, problem, solution, min_retained=0.0)
        out = tmp_path / f"w{shard}.parquet"
        balance_table.write_weights(out, path, part, problem, solution.weights, manifest)
        rows = read_table(out, kind="weights").columns
        weights |= dict(zip(rows["id"].tolist(), rows["weight"].tolist(), strict=True))
    assert len(weights) == 400
    assert np.mean(list(weights.values())) == pytest.approx(0.7, abs=1e-9)


def test_fields_become_a_row():
    row = row_of(
        {"key": 5, "a": "x", "b": ["y", "z"], "c": None, "age": 3}, Fields("key", tuple("abc"))
    )
    assert row == ("5", ("x", "y", "z"), {"age": 3})
    assert row_of_json('{"id": "i", "caption": "x"}', FIELDS) == ("i", ("x",), {})
    assert SEED == 0  # shards of an earlier run and of a later one are the same


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "expected one JSON object per line"),
        ("[1]", "expected one JSON object per line"),
        ('{"id": "i"}', r"has no \['caption'\], it has \['id'\]"),
        ('{"id": true, "caption": "x"}', "id: got True, expected str or an integer"),
        ('{"id": "i", "caption": [1]}', r"caption of 'i': got \[1\]"),
    ],
)
def test_what_is_no_record_is_named(line, message):
    with pytest.raises(ValueError, match=message):
        row_of_json(line, FIELDS)


def test_a_plan_that_does_nothing_or_counts_nobody_is_refused():
    with pytest.raises(ValueError, match="at least one attribute"):
        plan_names(Plan(LISTS._replace(attributes=())))
    with pytest.raises(ValueError, match="nothing to annotate"):
        make_annotators(Plan(LISTS._replace(attributes=(), labels=(), proxies=())))


def test_tool_reads_rules_of_columns():
    rule = tool.column_rule(["man=gender", "yes=man,boy", "no=woman", "unknown=*"])
    assert rule == ("man", "gender", ("man", "boy"), ("woman",), None)
    for words, message in (
        (["man=gender", "yes=man"], "expected NAME=COLUMN"),
        (["man", "yes=a", "no=b"], "expected key=value, such as man=gender"),
        (["man=gender", "yes=a", "no=b", "nope=c"], r"has no \['nope'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            tool.column_rule(words)


def test_tool_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(SystemExit, match=r"bias_clip\[beam\]"):
        tool.main(["--input", "x.jsonl", "--out", "y"])
