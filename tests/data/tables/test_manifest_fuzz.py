"""Damaged tables, embeddings and columns: what was written, or an error that names them; nothing in between."""

import random
import shutil

import numpy as np
import pytest

from bias_clip.data.tables.embeddings import open_embeddings
from bias_clip.data.tables.embeddings_writer import Shard, write_embeddings
from bias_clip.data.tables.mapped import open_mapped, verify_mapped, write_mapped
from bias_clip.data.tables.table import read_table, write_table
from tests.fuzzing import SEED, Outcomes, count_of, damage, damage_json

ROWS = 23
IDS = [f"r{i}" for i in range(ROWS)]
NUMBERS = np.arange(ROWS, dtype=np.float32)
IMAGE = np.random.default_rng(0).normal(size=(ROWS, 5)).astype(np.float32)


def make_table(folder):
    write_table(
        folder / "t.parquet", {"id": np.asarray(IDS), "weight": NUMBERS}, {"kind": "weights"}
    )


def make_embeddings(folder):
    def embed(rows):
        return Shard([IDS[i] for i in rows], {"image": IMAGE[list(rows)]}, {})

    write_embeddings(folder, embed, examples=ROWS, about={"step": 1}, shard_rows=9)


def make_columns(folder):
    write_mapped(folder, {"weight": NUMBERS}, {"source": {"name": "rows"}}, records=ROWS)


def read_weights(folder):
    found = read_table(folder / "t.parquet", kind="weights")
    assert found.columns["id"].tolist() == IDS
    np.testing.assert_array_equal(found.columns["weight"], NUMBERS)


def read_embeddings(folder):
    found = open_embeddings(folder)
    assert found.ids == IDS
    raw = np.asarray(found.image) * found.image_norm[:, None]
    np.testing.assert_allclose(raw, IMAGE, rtol=1e-5)


def read_columns(folder):
    found = open_mapped(folder)
    verify_mapped(folder)
    assert set(found.arrays) <= {"weight"}  # what a run asks for and is not there, it names
    for array in found.arrays.values():
        np.testing.assert_array_equal(np.asarray(array), NUMBERS)


KINDS = {
    "table": (make_table, read_weights),
    "embeddings": (make_embeddings, read_embeddings),
    "columns": (make_columns, read_columns),
}


@pytest.mark.slow
def test_damaged_tables_embeddings_and_columns_are_whole_or_refused(tmp_path, capsys):
    rng, outcomes = random.Random(SEED), Outcomes("manifests")
    for name, (make, read) in KINDS.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name)
        read(tmp_path / name)
    for _ in range(count_of(2_000)):
        name = rng.choice(list(KINDS))
        folder = tmp_path / "damaged" / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / name, folder)
        path = rng.choice(sorted(folder.iterdir()))
        content = path.read_bytes()
        if rng.random() < 0.05:
            path.unlink()
        else:
            path.write_bytes((damage_json if path.suffix == ".json" else damage)(content, rng))
        read = KINDS[name][1]
        outcomes.note(name, [str(folder)], lambda: read(folder))  # noqa: B023 - called at once
    outcomes.check(capsys)
