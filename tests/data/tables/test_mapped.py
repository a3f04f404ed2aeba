"""Columns by record number: the same batches as from tables, checked without reading them, never copied."""

import json
import pickle

import numpy as np
import pytest

from bias_clip.cli.curate import columns as tool
from bias_clip.data.image import encode_png
from bias_clip.data.sources import make_source
from bias_clip.data.stream.balanced import make_plan
from bias_clip.data.stream.columns import make_columns
from bias_clip.data.tables import write_table
from bias_clip.data.tables.mapped import (
    MappedArray,
    check_source,
    open_mapped,
    verify_mapped,
    write_mapped,
)

ROWS = 30
WEIGHT = np.random.default_rng(0).choice([0.0, 0.5, 1.0, 2.0], ROWS)


@pytest.fixture
def made(tmp_path):
    """A source of images, its weights and priors in another order, and the folder of columns."""
    (tmp_path / "images").mkdir()
    for i in range(ROWS):
        (tmp_path / "images" / f"{i:02d}.png").write_bytes(
            encode_png(np.zeros((2, 2, 3), np.uint8))
        )
        (tmp_path / "images" / f"{i:02d}.txt").write_text(f"caption {i}")
    ids = np.asarray([f"{i:02d}.png" for i in range(ROWS)])
    order = np.random.default_rng(1).permutation(ROWS)
    tables = {"w": {"weight": WEIGHT}, "p": {"prior": np.linspace(0, 0.4, ROWS).astype(np.float32)}}
    tables["p"]["group"] = np.arange(ROWS, dtype=np.int8) % 3 - 1
    for name, columns in tables.items():
        columns = {"id": ids, **columns}
        kind = {"w": "weights", "p": "priors"}[name]
        write_table(tmp_path / name, {k: v[order] for k, v in columns.items()}, {"kind": kind})
    source = ["--source", "folder", f"path={tmp_path / 'images'}"]
    words = ["--weights", tmp_path / "w", "--tables", tmp_path / "p", "--seed", 3]
    tool.main([str(x) for x in (*source, *words, "--out", tmp_path / "columns")])
    return tmp_path


def source_of(made):
    return make_source(name="folder", path=str(made / "images"))


def test_plans_from_columns_are_those_of_the_table(made):
    source = source_of(made)
    for use, seed in (("thin", 3), ("weight", 0)):
        plans = [
            make_plan(source, table=str(made / name), use=use, seed=seed, switch=5)
            for name in ("w", "columns")
        ]
        assert plans[0].identity == plans[1].identity  # a run goes on with either
        for old, new in zip(plans[0].phases, plans[1].phases, strict=True):
            assert len(old.source) == len(new.source)
            assert old.keys.keys() == new.keys.keys()
            some = np.arange(0, len(old.source), 3)
            for key in old.keys:
                np.testing.assert_array_equal(old.keys[key][some], new.keys[key][some])
                assert old.keys[key][some].dtype == new.keys[key][some].dtype
            for i in (0, len(old.source) - 1):
                assert old.source[i]["id"] == new.source[i]["id"]


def test_batch_columns_from_the_folder_are_those_of_the_table(made):
    for key, column in (("prior", "prior"), ("labels", "group")):
        old, new = (
            make_columns(source_of(made), {key: {"table": str(made / name), "column": column}})[key]
            for name in ("p", "columns")
        )
        rows = np.array([4, 0, 29, 4])
        np.testing.assert_array_equal(old[rows], new[rows])
        assert old.dtype == new[rows].dtype


def test_arrays_travel_by_name_and_not_by_value(tmp_path):
    write_mapped(tmp_path / "c", {"x": np.arange(10**6)}, {}, records=10**6)
    x = open_mapped(tmp_path / "c").arrays["x"]
    packed = pickle.dumps(x.astype(np.float32))
    assert len(packed) < 1000
    assert pickle.loads(packed)[[5, 7]].tolist() == [5.0, 7.0]
    assert isinstance(x, MappedArray)


class Ids:
    def __init__(self, ids):
        self.ids = ids

    def __len__(self):
        return len(self.ids)

    def names(self, index):
        return {"id": self.ids[index]}

    def __getitem__(self, index):
        raise AssertionError("starting a run reads no record of a source that knows its ids")


def test_columns_of_another_source_or_order_are_refused(made):
    found, ids = open_mapped(made / "columns"), [f"{i:02d}.png" for i in range(ROWS)]
    check_source(found, Ids(ids), "columns")
    with pytest.raises(ValueError, match=r"in another order: record 0 is '29.png' there"):
        check_source(found, Ids(ids[::-1]), "columns")
    with pytest.raises(ValueError, match="is of 30 records, the source has 29"):
        check_source(found, Ids(ids[:-1]), "columns")


def test_files_that_changed_are_refused(made, capsys):
    folder = made / "columns"
    tool.main(["--verify", str(folder)])
    path = folder / "weight.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"weight.npy is missing or cut off"):
        open_mapped(folder)
    path.write_bytes(whole[:-1] + b"\x01")
    with pytest.raises(ValueError, match="is not the file of its manifest"):
        open_mapped(folder)
    path.write_bytes(whole)
    big = {"x": np.zeros(10**6)}
    write_mapped(made / "big", big, {}, records=10**6)
    raw = bytearray((made / "big" / "x.npy").read_bytes())
    raw[200_001] = 1  # between the blocks that opening reads
    (made / "big" / "x.npy").write_bytes(raw)
    open_mapped(made / "big")
    with pytest.raises(ValueError, match="has changed since it was written"):
        verify_mapped(made / "big")
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match="is not a finished folder of columns"):
        open_mapped(folder)


@pytest.mark.parametrize("name", ["../weight", "a/b", "[" * 4000, ""])
def test_a_manifest_whose_arrays_are_no_files_of_the_folder_is_refused(made, name):
    path = made / "columns" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["arrays"][name] = manifest["arrays"]["weight"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest.json: .* are missing or of another type"):
        open_mapped(made / "columns")


def test_what_a_folder_cannot_give_is_refused(made):
    source, folder = source_of(made), str(made / "columns")
    with pytest.raises(ValueError, match=r"holds the draw .*'seed': 3.* got seed=4"):
        make_plan(source, table=folder, use="thin", seed=4)
    with pytest.raises(ValueError, match="got seed=3, draw=None, fresh=True"):
        make_plan(source, table=folder, use="thin", seed=3, fresh=True)
    with pytest.raises(ValueError, match="no 'labels'"):
        make_columns(source, {"labels": {"table": folder}})
    with pytest.raises(ValueError, match="expected integers from -1"):
        make_columns(source, {"labels": {"table": folder, "column": "weight"}})
    with pytest.raises(ValueError, match="expected numbers from 0 to below 1"):
        make_columns(source, {"prior": {"table": folder, "column": "weight"}})
    with pytest.raises(ValueError, match="Number text first"):
        write_mapped(made / "t", {"a": np.array(["x"])}, {}, records=1)
    assert json.loads((made / "columns" / "manifest.json").read_text())["records"] == ROWS
