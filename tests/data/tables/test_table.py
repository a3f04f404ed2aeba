"""Tables keyed by id: what is written is read, and nothing unfinished or altered ever is."""

import json
from pathlib import Path

import numpy as np
import pytest

from bias_clip.data.tables import fingerprint, join, manifest_path, memory, read_table, write_table
from bias_clip.data.tables import table as tables

IDS = ("a", "b/ü", "c d", "日本")


def columns_of(ids=IDS, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "id": np.asarray(ids),
        "man": rng.integers(-1, 2, len(ids)).astype(np.int8),
        "weight": rng.random(len(ids)),
        "share": rng.random(len(ids)).astype(np.float32),
        "name": np.asarray([f"n{i}" for i in range(len(ids))]),
        "flag": rng.random(len(ids)) < 0.5,
    }


def written(path, **changes):
    write_table(path, columns_of() | changes, {"kind": "weights", "seed": 3})
    return path


def test_what_is_written_is_read_with_its_types_and_manifest(tmp_path):
    columns = columns_of() | {"weight": np.asarray([0.5, np.nan, 1, 2])}
    said = write_table(tmp_path / "deep" / "w.parquet", columns, {"kind": "weights", "seed": 3})
    table = read_table(tmp_path / "deep" / "w.parquet", kind="weights")
    assert list(table.columns) == list(columns)
    for name, values in columns.items():
        np.testing.assert_array_equal(table.columns[name], values)
        assert table.columns[name].dtype.kind == values.dtype.kind
        assert table.columns[name].dtype.itemsize == values.dtype.itemsize
    assert table.manifest == said
    assert (said["rows"], said["seed"], said["ids_sha256"]) == (4, 3, fingerprint(IDS))
    assert said["columns"]["man"] == "int8"
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["w.parquet", "w.parquet.json"]


def test_parts_are_one_table(tmp_path):
    whole = columns_of()
    parts = [{k: v[rows] for k, v in whole.items()} for rows in (slice(0, 1), slice(1, 4))]
    said = tables.write_shards(tmp_path / "p", parts, {"kind": "weights"})
    table = read_table(tmp_path / "p", kind="weights")
    for name, values in whole.items():
        np.testing.assert_array_equal(table.columns[name], values)
    assert said["ids_sha256"] == fingerprint(IDS)
    batches = list(tables.open_table(tmp_path / "p", kind="weights", rows=3).batches)
    assert [len(batch["id"]) for batch in batches] == [3, 1]


def test_fingerprint_knows_order_and_borders():
    assert len({fingerprint(ids) for ids in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"])}) == 4
    assert fingerprint([]) != fingerprint([""])


@pytest.mark.parametrize("step", ["first put", "second put", "parquet"])
def test_an_interruption_leaves_no_readable_table(tmp_path, monkeypatch, step):
    """Whatever step dies, on a fresh path and over an older table: the old one or an error."""
    path = tmp_path / "w.parquet"
    before = None
    for attempt in range(2):
        with monkeypatch.context() as broken:
            calls = []

            def dies(*args, real=Path.replace, calls=calls):
                calls.append(args)
                if step == "parquet" or len(calls) == ("first put", "second put").index(step) + 1:
                    raise KeyboardInterrupt
                real(*args)

            owner, name = (tables, "file_sha256") if step == "parquet" else (Path, "replace")
            broken.setattr(owner, name, dies)
            with pytest.raises(KeyboardInterrupt):
                write_table(path, columns_of(seed=attempt), {"kind": "weights"})
        if attempt and step == "parquet":  # nothing of the older table was touched
            assert read_table(path, kind="weights").manifest == before
        else:
            with pytest.raises(ValueError, match=r"no table|unfinished"):
                read_table(path, kind="weights")
        before = write_table(path, columns_of(), {"kind": "weights"})


def test_a_generator_that_fails_leaves_the_older_table(tmp_path):
    path = written(tmp_path / "w.parquet")

    def parts():
        yield columns_of(("x",))
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        tables.write_shards(path, parts(), {"kind": "weights"})
    assert read_table(path, kind="weights").columns["id"].tolist() == list(IDS)


def test_a_changed_file_another_kind_and_a_broken_manifest_are_refused(tmp_path):
    path = written(tmp_path / "w.parquet")
    with pytest.raises(ValueError, match="'weights', expected one of 'cells'"):
        read_table(path, kind="cells")
    other = written(tmp_path / "other.parquet", weight=np.arange(4.0))
    path.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="not the file that"):
        read_table(path, kind="weights")
    manifest_path(path).write_text("{")
    with pytest.raises(ValueError, match="expected a JSON object"):
        read_table(path, kind="weights")
    manifest_path(path).write_text(json.dumps({"kind": "weights"}))
    with pytest.raises(ValueError, match=r"lacks.*file_sha256"):
        read_table(path, kind="weights")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": np.asarray(["a", "b", "a", "c"])}, r"1 ids come twice, such as \['a'\]"),
        ({"id": np.arange(4)}, "expected str"),
        ({"id": np.asarray(["a", "", "b", "c"])}, "at least one character"),
        ({"man": np.zeros(3)}, r"shape \(3,\), expected \(4,\)"),
        ({"man": np.zeros((4, 2))}, r"shape \(4, 2\)"),
        ({"man": np.asarray([1, None, 0, 1])}, "expected numbers"),
        ({"man": np.zeros(4, complex)}, "expected numbers"),
    ],
)
def test_columns_that_make_no_table_are_refused_before_anything_is_there(
    tmp_path, changes, message
):
    with pytest.raises(ValueError, match=message):
        written(tmp_path / "w.parquet", **changes)
    assert not (tmp_path / "w.parquet").exists()


def test_no_rows_no_ids_no_kind_and_taken_keys_are_refused(tmp_path):
    path = tmp_path / "w.parquet"
    with pytest.raises(ValueError, match="no rows"):
        tables.write_shards(path, [], {"kind": "weights"})
    with pytest.raises(ValueError, match="column 'id'"):
        write_table(path, {"man": np.zeros(3)}, {"kind": "weights"})
    with pytest.raises(ValueError, match="kind"):
        write_table(path, columns_of(), {})
    with pytest.raises(ValueError, match="rename"):
        write_table(path, columns_of(), {"kind": "weights", "rows": 4})
    parts = columns_of(), columns_of(tuple("xyzw")) | {"man": np.zeros(4)}
    with pytest.raises(ValueError, match="parts differ"):
        tables.write_shards(path, parts, {"kind": "weights"})
    with pytest.raises(ValueError, match="come twice"):
        tables.write_shards(path, [columns_of(), columns_of()], {"kind": "weights"})


def test_join_gives_rows_in_the_order_asked_for(tmp_path):
    table = read_table(written(tmp_path / "w.parquet"), kind="weights")
    order = [2, 0, 3]
    found = join(table, [IDS[i] for i in order])
    for name, values in table.columns.items():
        np.testing.assert_array_equal(found[name], values[order])


def test_join_names_what_is_missing_and_what_to_do(tmp_path):
    table = read_table(written(tmp_path / "w.parquet"), kind="weights")
    with pytest.raises(ValueError, match=r"lacks 2 of 3 examples: \['x', 'zz'\].*again"):
        join(table, ["x", "a", "zz"])
    with pytest.raises(ValueError, match="another data set"):
        join(table, np.asarray(["x", "y"]))
    with pytest.raises(ValueError, match="come twice"):
        join(table, ["a", "a"])
    with pytest.raises(ValueError, match="expected str"):
        join(table, [1, 2])


def test_one_long_cell_takes_its_own_memory_only(tmp_path):
    path, rows = tmp_path / "t.parquet", 60_000  # as text of fixed width: 22 GiB
    cells = np.array([""] * (rows - 1) + ["x" * 100_000], object)
    write_table(path, {"id": np.arange(rows).astype(str), "note": cells}, {"kind": "k"})
    note = read_table(path, kind="k").columns["note"]
    assert note.nbytes < 10**6
    assert note[-1] == cells[-1]
    with pytest.raises(ValueError, match="100000 characters"):
        write_table(path, {"id": ["a", "x" * 100_000]}, {"kind": "k"})


def test_a_table_that_does_not_fit_in_memory_is_said_before_it_is_read(
    tmp_path, caplog, monkeypatch
):
    ids = [f"{i:010d}" for i in range(1000)]
    write_table(tmp_path / "w.parquet", columns_of(ids), {"kind": "weights"})
    needed = memory.joined_bytes(tmp_path / "w.parquet", "id")
    # Ids, and 8 bytes of each column; a small file also has a dictionary of its ids.
    assert 1000 * 6 * 40 <= needed <= 1000 * (6 * 40 + 8 * 6) * 1.2
    monkeypatch.setattr(memory, "free_bytes", lambda: needed)
    read_table(tmp_path / "w.parquet", kind="weights")
    assert not caplog.records
    monkeypatch.setattr(memory, "free_bytes", lambda: needed - 1)
    read_table(tmp_path / "w.parquet", kind="weights")
    assert "are free: the system may end this process" in caplog.text
    assert "bias-clip columns" in caplog.text


def test_free_memory_is_at_most_that_of_the_machine():
    said = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    assert 0 < memory.free_bytes() <= int(said["MemTotal"].split()[0]) * 1024
