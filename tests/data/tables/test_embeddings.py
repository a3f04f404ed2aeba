"""Embeddings on disk: what is read is what was written, and an interruption leaves no trace."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from bias_clip.data.tables.embeddings import chunks, open_embeddings
from bias_clip.data.tables.embeddings_writer import Shard, write_embeddings

RNG = np.random.default_rng(0)
IMAGE, TEXT = RNG.normal(size=(2, 23, 5)).astype(np.float32) * 3
ABOUT = {"source": {"name": "rows"}, "step": 8}


def embed(rows):
    return Shard(
        [f"r{i}" for i in rows], {"image": IMAGE[list(rows)], "text": TEXT[list(rows)]}, {}
    )


def write(path, embed=embed, **changes):
    given = dict(examples=23, about=ABOUT, shard_rows=7) | changes
    return write_embeddings(path, embed, **given)


def files(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_rows_are_those_that_were_embedded_and_norms_give_the_raw_features_back(tmp_path):
    manifest = write(tmp_path / "z")
    found = open_embeddings(tmp_path / "z")
    assert found.manifest == manifest
    assert found.ids == [f"r{i}" for i in range(23)]
    assert (manifest["rows"], manifest["width"], manifest["shards"]) == (23, 5, [7, 7, 7, 2])
    assert manifest["plan"]["step"] == 8
    for z, norm, raw in (
        (found.image, found.image_norm, IMAGE),
        (found.text, found.text_norm, TEXT),
    ):
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(z) * norm[:, None], raw, rtol=1e-5)


def test_a_matrix_of_shards_is_indexed_as_an_array_and_stays_on_disk(tmp_path):
    write(tmp_path / "z")
    z = open_embeddings(tmp_path / "z").image
    whole = np.asarray(z)
    assert (len(z), z.shape, z.dtype) == (23, whole.shape, whole.dtype)
    mask = np.arange(23) % 3 == 0
    for index in (3, -1, slice(5, 16), slice(None), slice(20, 99), slice(0, 0), slice(22, 1, -4)):
        np.testing.assert_array_equal(z[index], whole[index])
    for index in (np.asarray([22, 0, 7, 7, 6, -2]), [1], np.asarray([], int), mask):
        np.testing.assert_array_equal(z[index], whole[index])
    assert all(isinstance(part, np.memmap) for part in z.parts)
    assert isinstance(z[7:14], np.memmap)
    with pytest.raises(IndexError):
        z[23]


@pytest.mark.parametrize("rows", [1, 6, 7, 14, 100])
def test_chunks_together_are_the_matrix_however_they_are_cut(tmp_path, rows):
    write(tmp_path / "z", dtype="float16")
    found = open_embeddings(tmp_path / "z")
    parts = list(chunks(found, "text", rows))
    assert {len(part) for part in parts[:-1]} <= {rows}
    assert {part.dtype for part in parts} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(np.concatenate(parts), np.asarray(found.text))
    unit = TEXT / np.linalg.norm(TEXT, axis=1, keepdims=True)
    np.testing.assert_allclose(np.concatenate(parts), unit, atol=5e-4)  # float16 has 11 bits


@pytest.mark.parametrize("last", ["image", "text", "rows", "manifest"])
def test_a_killed_writer_goes_on_after_the_whole_shards_and_leaves_the_same_bytes(
    tmp_path, monkeypatch, last
):
    """Killed at the third shard, just before the file `last` would get its name."""
    write(tmp_path / "once")
    calls = []

    def counting(rows):
        calls.append(rows)
        return embed(rows)

    name = "manifest" if last == "manifest" else f"{last}-00002"

    def die(partial, path, real=Path.replace):
        if path.name.startswith(name):
            raise KeyboardInterrupt
        return real(partial, path)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "twice", counting)
    suffix = {"manifest": ".json", "rows": ".parquet"}.get(last, ".npy")
    (tmp_path / "twice" / f"{name}{suffix}.partial").write_bytes(b"half")  # as a kill leaves it
    with pytest.raises(ValueError, match=r"unfinished: there is no manifest\.json"):
        open_embeddings(tmp_path / "twice")
    before = len(calls)
    write(tmp_path / "twice", counting)
    done = 4 if last == "manifest" else 2
    assert (before, len(calls)) == (4 if last == "manifest" else 3, before + 4 - done)
    assert files(tmp_path / "once") == files(tmp_path / "twice")


def test_finished_embeddings_are_left_as_they_are_and_others_are_refused(tmp_path):
    write(tmp_path / "z")
    before = files(tmp_path / "z")

    def never(rows):
        raise AssertionError("embedded again")

    write(tmp_path / "z", never)
    assert files(tmp_path / "z") == before
    with pytest.raises(ValueError, match=r"other embeddings \(step: 8 there, 9 now\). Delete"):
        write(tmp_path / "z", never, about={**ABOUT, "step": 9})
    with pytest.raises(ValueError, match=r"\(shard_rows: 7 there, 8 now\)"):
        write(tmp_path / "z", never, shard_rows=8)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other things"):
        write(tmp_path / "other")


def test_damage_is_named(tmp_path):
    write(tmp_path / "whole")

    def damaged(name, change):
        shutil.rmtree(tmp_path / "z", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "z")
        change(tmp_path / "z" / name)

    def refused(name, change, message):
        damaged(name, change)
        with pytest.raises(ValueError, match=message):
            open_embeddings(tmp_path / "z")

    def other_version(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 0}))

    cut = lambda path: path.write_bytes(path.read_bytes()[:-8])  # noqa: E731
    refused("image-00001.npy", cut, r"image-00001\.npy is cut off")
    refused("text-00003.npy", lambda p: p.write_bytes(b""), r"text-00003\.npy is cut off")
    refused("text-00002.npy", lambda p: p.unlink(), r"text-00002\.npy is missing")
    refused("image-00003.npy", lambda p: np.save(p, IMAGE), r"image-00003\.npy .*of other embed")
    refused("rows-00000.parquet", cut, r"rows-00000\.parquet is cut off")
    refused("manifest.json", other_version, r"version \('embeddings', 0\), expected .*2\)")
    refused("manifest.json", lambda p: p.unlink(), "unfinished")
    with pytest.raises(ValueError, match="there are no embeddings"):
        open_embeddings(tmp_path / "none")


def test_broken_records_are_refused_or_named_and_have_no_row(tmp_path):
    def faulty(rows):
        left = [i for i in rows if i != 9]
        broken = {"9": "cut off"} if 9 in rows else {}
        return Shard([f"r{i}" for i in left], {"image": IMAGE[left]}, broken)

    with pytest.raises(ValueError, match=r"1 records cannot be read, 0 are allowed.*9.*cut off"):
        write(tmp_path / "z", faulty)
    write(tmp_path / "z", faulty, max_broken=1)
    found = open_embeddings(tmp_path / "z")
    assert (len(found.ids), found.manifest["broken"]) == (22, {"9": "cut off"})
    assert found.text is None
    assert "r9" not in found.ids
    with pytest.raises(ValueError, match=r"no embeddings of 'text'; there are \['image'\]"):
        next(chunks(found, "text", 5))


def test_ids_that_come_twice_and_features_that_are_no_numbers_are_refused(tmp_path):
    def same(rows):
        return embed(rows)._replace(ids=[f"r{i % 10}" for i in rows])

    with pytest.raises(ValueError, match=r"ids come twice, such as \['r0'"):
        write(tmp_path / "z", same)
    sick = IMAGE.copy()
    sick[8, 2] = np.nan
    with pytest.raises(ValueError, match=r"1 of 7 image embeddings.*'r8'.*diverged"):
        write(
            tmp_path / "y", lambda rows: Shard([f"r{i}" for i in rows], {"image": sick[rows]}, {})
        )


def test_a_row_of_zeros_stays_one(tmp_path):
    def zeros(rows):
        return Shard([f"r{i}" for i in rows], {"image": np.zeros((len(rows), 3))}, {})

    write(tmp_path / "z", zeros)
    found = open_embeddings(tmp_path / "z")
    assert not np.asarray(found.image).any()
    assert not found.image_norm.any()


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_rows_whose_squares_a_float32_cannot_hold_keep_their_direction(size, tmp_path):
    def sized(rows):
        return Shard([f"r{i}" for i in rows], {"image": IMAGE[rows] * size}, {})

    write(tmp_path / "z", sized)
    write(tmp_path / "plain", lambda rows: sized(rows)._replace(features={"image": IMAGE[rows]}))
    found, plain = open_embeddings(tmp_path / "z"), open_embeddings(tmp_path / "plain")
    np.testing.assert_allclose(np.asarray(found.image), np.asarray(plain.image), atol=1e-6)
    np.testing.assert_allclose(found.image_norm / np.float32(size), plain.image_norm, rtol=1e-6)


def test_rows_longer_than_a_float32_holds_are_named(tmp_path):
    def long(rows):
        return Shard([f"r{i}" for i in rows], {"image": np.full((len(rows), 3), 3e38)}, {})

    with pytest.raises(ValueError, match=r"image embeddings are longer than .* 3.4e38, .*'r0'"):
        write(tmp_path / "z", long)


def test_a_flipped_bit_and_a_shard_of_another_model_are_refused(tmp_path):
    write(tmp_path / "z")
    open_embeddings(tmp_path / "z")
    other = lambda rows: embed(rows)._replace(features={"image": TEXT[rows], "text": IMAGE[rows]})  # noqa: E731
    write(tmp_path / "other", other)
    for name in ("image-00001.npy", "rows-00002.parquet", "rows-00002.parquet.json"):
        shutil.rmtree(tmp_path / "y", ignore_errors=True)
        shutil.copytree(tmp_path / "z", tmp_path / "y")
        shutil.copy(tmp_path / "other" / name, tmp_path / "y" / name)
        with pytest.raises(ValueError, match=r"other embeddings|is not the file"):
            open_embeddings(tmp_path / "y")
    for path in sorted((tmp_path / "z").glob("*.npy")):
        whole = path.read_bytes()
        for place in (len(whole) - 1, len(whole) - 4 * 7, 20):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
            with pytest.raises(
                ValueError, match=rf"{re.escape(path.name)} is cut off, changed, or of other"
            ):
                open_embeddings(tmp_path / "z")
        path.write_bytes(whole)
    open_embeddings(tmp_path / "z")


@pytest.mark.parametrize("key", ["rows", "width", "dtype", "modalities", "shards", "sums", "plan"])
@pytest.mark.parametrize("value", [None, "x", [None], {"a": 1}, [{}], ["rows"]])
def test_a_manifest_of_another_shape_is_named(tmp_path, key, value):
    write(tmp_path / "z")
    path = tmp_path / "z" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    if (key, value) in (("dtype", "x"), ("plan", {"a": 1})):  # of the right type: no such shards
        return
    with pytest.raises(ValueError, match=rf"manifest\.json is not a manifest.*{key}"):
        open_embeddings(tmp_path / "z")


@pytest.mark.parametrize(
    "content", [b"", b'{"kind": "emb', b"[]", b"3", b"\0" * 64, b"\xff", b"[" * 99_999]
)
def test_a_damaged_manifest_is_one_line_that_names_it(tmp_path, content):
    write(tmp_path / "z")
    for name in ("manifest.json", "plan.json"):
        path = tmp_path / "z" / name
        whole = path.read_bytes()
        path.write_bytes(content)
        read = open_embeddings if name == "manifest.json" else write
        with pytest.raises(ValueError, match=rf"{name}: got .*expected a JSON object") as caught:
            read(tmp_path / "z")
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)
