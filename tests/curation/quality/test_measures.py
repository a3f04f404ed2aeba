"""Measures: each says what it should of images and captions made for it; copies across shards count."""

import io

import numpy as np
import pytest
from PIL import Image

from bias_clip.curation.quality.duplicates import copies_of, near_groups
from bias_clip.curation.quality.measures import PARTS, measure_source
from bias_clip.data.image import encode_png
from bias_clip.data.tables import read_table
from bias_clip.data.tables.embeddings import open_embeddings
from bias_clip.data.tables.embeddings_writer import Shard, write_embeddings


class Rows:
    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]


def blobs(seed, side=64):
    """A smooth image, as photos are: noise has no low frequencies that survive compression."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def jpeg(pixels, quality):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def record(i, image, *captions):
    return {"id": f"r{i}", "image": image, "captions": captions}


def source():
    one = encode_png(blobs(0))
    return Rows(
        [
            record(0, one, "a red cat sits on a mat", "cat"),
            record(1, encode_png(blobs(1)), "dog dog dog dog"),
            record(
                2, one, "A  RED cat sits on a&nbsp;mat"
            ),  # the same file and caption as the first
            record(3, jpeg(np.asarray(Image.fromarray(blobs(0)).resize((48, 48))), 40), ""),
            record(4, encode_png(blobs(2)[:16]), "der Hund liegt unter dem Tisch in der Küche"),
            record(5, encode_png(blobs(3)), ""),
        ]
    )


def test_measures_say_what_the_records_are(tmp_path):
    measure_source(source(), tmp_path / "q.parquet", PARTS, about={}, shard_rows=2)
    found = read_table(tmp_path / "q.parquet", kind="measures").columns
    assert found["width"].tolist() == [64, 64, 64, 48, 64, 64]
    assert found["height"].tolist() == [64, 64, 64, 48, 16, 64]
    assert found["aspect"].tolist() == [1, 1, 1, 1, 4, 1]
    assert found["words"].tolist() == [7, 4, 7, 0, 9, 0]
    np.testing.assert_allclose(found["repetition"], [1 / 7, 0.75, 1 / 7, 0, 1 / 9, 0], atol=0.02)
    assert found["language"][[0, 3, 4]].tolist() == ["en", "", "de"]
    assert found["image_copies"].tolist() == [2, 1, 2, 1, 1, 1]
    assert found["image_first"].tolist() == [1, 1, 0, 1, 1, 1]
    assert found["near_copies"].tolist() == [3, 1, 3, 3, 1, 1]  # the small JPEG looks the same
    assert found["caption_copies"].tolist() == [
        2,
        1,
        2,
        1,
        1,
        1,
    ]  # two missing captions are not copies


def test_shards_do_not_change_the_measures(tmp_path):
    made = []
    for name, rows in (("one", 100), ("many", 1)):
        measure_source(source(), tmp_path / name, PARTS[:2], about={}, shard_rows=rows)
        made.append(read_table(tmp_path / name, kind="measures").columns)
    for name, values in made[0].items():
        np.testing.assert_array_equal(values, made[1][name])


def test_similarity_is_the_cosine_joined_by_id(tmp_path):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 6, 8)).astype(np.float32)
    ids = [f"r{i}" for i in range(6)]
    write_embeddings(
        tmp_path / "z",
        lambda rows: Shard(
            [ids[::-1][i] for i in rows], {"image": z[0][rows], "text": z[1][rows]}, {}
        ),
        examples=6,
        about={"of": "rows"},
    )
    path = tmp_path / "q"
    measure_source(source(), path, [], about={}, similarity=open_embeddings(tmp_path / "z"))
    found = read_table(path, kind="measures").columns
    unit = z / np.linalg.norm(z, axis=2, keepdims=True)
    np.testing.assert_allclose(found["similarity"], (unit[0] * unit[1]).sum(1)[::-1], atol=1e-6)
    np.testing.assert_array_equal(found["utility"], np.maximum(found["similarity"], 0))


def test_a_record_that_was_not_embedded_has_no_similarity(tmp_path):
    z = np.eye(5, 8, dtype=np.float32)
    ids = [f"r{i}" for i in range(5)]
    for name, broken in (("z", {"5": "no caption"}), ("other", {})):
        write_embeddings(
            tmp_path / name,
            lambda rows, broken=broken: Shard(ids, {"image": z, "text": z}, broken),
            examples=6,
            about={"of": "rows"},
            max_broken=1,
        )
    path = tmp_path / "q"
    measure_source(source(), path, [], about={}, similarity=open_embeddings(tmp_path / "z"))
    found = read_table(path, kind="measures").columns
    np.testing.assert_allclose(found["similarity"], [1, 1, 1, 1, 1, np.nan])
    assert found["utility"].tolist() == [1, 1, 1, 1, 1, 0]
    other = open_embeddings(tmp_path / "other")
    with pytest.raises(ValueError, match=r"5 rows and 0 records .*; the source has 6"):
        measure_source(source(), tmp_path / "p", [], about={}, similarity=other)


def test_broken_records_are_counted_and_named(tmp_path):
    rows = Rows([*source().records, record(6, b"no image", "a"), record(7, blobs(4), "b")])
    with pytest.raises(
        ValueError, match=r"1 records cannot be read, 0 are allowed. The first is 6"
    ):
        measure_source(rows, tmp_path / "q", ["size"], about={})
    manifest = measure_source(rows, tmp_path / "q", ["size"], about={}, max_broken=1)
    assert list(manifest["broken"]) == ["6"]
    assert manifest["rows"] == 7


def test_unknown_measures_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected some of"):
        measure_source(source(), tmp_path / "q", ["beauty"], about={})
    with pytest.raises(ValueError, match="or embeddings"):
        measure_source(source(), tmp_path / "q", [], about={})


@pytest.mark.parametrize("bits", [0, 1, 4])
def test_near_groups_equal_all_pairs(bits):
    rng = np.random.default_rng(bits)
    base = rng.integers(0, 2**63, 40, np.uint64)
    flips = np.uint64(1) << rng.integers(0, 63, (200, 3)).astype(np.uint64)
    hashes = np.concatenate([base, rng.choice(base, 200) ^ np.bitwise_xor.reduce(flips, axis=1)])
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= bits
    while not np.array_equal(near, wider := near @ near):  # chains, by brute force
        near = wider
    groups = near_groups(hashes, bits=bits)
    np.testing.assert_array_equal(groups[:, None] == groups[None], near)


def test_copies_count_and_name_the_first():
    count, first = copies_of(np.array([3, 1, 3, 3]))
    assert count.tolist() == [3, 1, 3, 3]
    assert first.tolist() == [True, True, False, False]
