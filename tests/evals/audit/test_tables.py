"""Embeddings of the user's own: three forms, one result; whatever is wrong with them is said."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bias_clip.evals.audit import table_model
from bias_clip.evals.ranking import unit
from tests.evals.audit.people import People

IDS = [f"p{i}" for i in range(6)]
TEXTS = ["a man", "two\nlines"]
IMAGE = unit(np.random.default_rng(0).normal(size=(6, 4)))
TEXT = unit(np.random.default_rng(1).normal(size=(2, 4)))


def npz(folder, **changes):
    arrays = {"ids": np.array(IDS), "image": IMAGE, "texts": np.array(TEXTS), "text": TEXT}
    path = folder / "z.npz"
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return [path]


def npy(folder):
    np.save(folder / "images.npy", IMAGE)
    (folder / "images.txt").write_text("\n".join(IDS) + "\n")
    np.save(folder / "texts.npy", TEXT)
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    return [folder / "images.npy", folder / "texts.npy"]


def parquet(folder):
    for name, key, keys, rows in (("i", "id", IDS, IMAGE), ("t", "text", TEXTS, TEXT)):
        table = pa.table({key: keys, "embedding": rows.tolist()})
        pq.write_table(table, folder / f"{name}.parquet")
    return [folder / "i.parquet", folder / "t.parquet"]


@pytest.mark.parametrize("form", [npz, npy, parquet])
def test_forms_give_the_rows_of_the_ids_that_are_asked_for(form, tmp_path):
    model = table_model("m", form(tmp_path))
    source = People(6)
    source.columns["id"] = source.columns["id"][::-1]
    np.testing.assert_allclose(model.images(source, {}), IMAGE[::-1], atol=1e-6)
    np.testing.assert_allclose(model.texts(TEXTS[::-1]), TEXT[::-1], atol=1e-6)
    assert model.notes == []


def test_other_lengths_are_normalised_and_said(tmp_path):
    model = table_model("m", npz(tmp_path, image=IMAGE * np.arange(1, 7)[:, None]))
    np.testing.assert_allclose(model.images(People(6), {}), IMAGE, atol=1e-6)
    assert model.notes == [
        "5 of 6 image embeddings had lengths from 1 to 6: they were normalised to 1."
    ]


BAD = IMAGE.copy()
BAD[2, 1] = np.nan
ZERO = IMAGE.copy()
ZERO[3] = 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": BAD}, r"1 of 6 image embeddings are not finite, such as of \['p2'\]"),
        ({"image": ZERO}, "1 image embeddings are zero, such as of 'p3'"),
        ({"text": TEXT[:, :3]}, r"widths \{'image': 4, 'text': 3\}"),
        ({"ids": np.array([*IDS[:5], "p0"])}, r"1 keys come twice, such as \['p0'\]"),
        ({"ids": np.array(IDS[:5])}, "5 keys and an array"),
        ({"text": None, "texts": None}, "no embeddings of texts.*--list-texts"),
        ({"texts": None}, "expected 'texts' beside 'text'"),
        ({"image": np.array([[{}]], object)}, "damaged, or holds Python objects"),
    ],
)
def test_what_cannot_be_a_table_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        table_model("m", npz(tmp_path, **changes))


def test_ids_that_do_not_match_the_data_are_named(tmp_path):
    model = table_model("m", npz(tmp_path))
    with pytest.raises(
        ValueError, match=r"m: 2 of 8 images have no embedding, such as \['p6', 'p7'\]"
    ):
        model.images(People(8), {})
    with pytest.raises(ValueError, match=r"1 of 1 texts have no embedding, such as \['a woman'\]"):
        model.texts(["a woman"])


def test_rows_of_different_widths_and_other_files_are_refused(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": [[1.0], [1.0, 2.0]]}), path)
    with pytest.raises(ValueError, match="expected one width"):
        table_model("m", [path])
    path.write_bytes(b"no table")
    with pytest.raises(ValueError, match="is not Parquet"):
        table_model("m", [path])
    with pytest.raises(ValueError, match="expected one of"):
        table_model("m", [tmp_path / "x.pkl"])
    with pytest.raises(ValueError, match="there is no"):
        table_model("m", [tmp_path / "none.npz"])
    np.save(tmp_path / "lonely.npy", IMAGE)
    with pytest.raises(ValueError, match=r"neither lonely\.txt nor lonely\.json"):
        table_model("m", [tmp_path / "lonely.npy"])


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1e-30, np.float32), (1e30, np.float32), (1e-200, np.float64), (1e200, np.float64)],
)
def test_rows_whose_squares_a_float32_cannot_hold_keep_their_direction(size, dtype, tmp_path):
    model = table_model("m", npz(tmp_path, image=(IMAGE.astype(np.float64) * size).astype(dtype)))
    np.testing.assert_allclose(model.images(People(6), {}), IMAGE, atol=1e-6)
    assert "normalised to 1" in model.notes[0]


def test_rows_that_are_all_the_same_are_said(tmp_path):
    model = table_model("m", npz(tmp_path, image=np.tile(IMAGE[:1], (6, 1))))
    assert model.notes == [
        "all 6 image embeddings are the same: no number says anything about the model."
    ]
