"""Parquet and Arrow shards: all ways to store the same rows give the same records."""

import json
import logging
import pickle
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bias_clip.cli.curate.regroup_parquet import main
from bias_clip.data.image import encode_png
from bias_clip.data.records import column
from bias_clip.data.sources import make_source
from bias_clip.data.sources.arrow.shards import ShardReader
from tests.data.tiny import Patches

IMAGES = [encode_png(Patches(6)[i]["image"]) for i in range(6)]
TEXTS = [f"caption {i}" for i in range(6)]


def read(path, **arguments):
    return make_source(name="parquet", path=str(path), **arguments)


def found(source):
    return [(source[i]["image"], source[i]["captions"]) for i in range(len(source))]


def struct(images=IMAGES, **more):
    return pa.array([{"bytes": x, "path": "a.png", **more} for x in images])


PAIRS = [(image, (text,)) for image, text in zip(IMAGES, TEXTS, strict=True)]
STORED = {
    "struct of bytes": {"image": struct(), "text": TEXTS},
    "other order": {
        "caption": TEXTS,
        "image": pa.array([{"path": "x", "bytes": b} for b in IMAGES]),
    },
    "binary": {"jpg": pa.array(IMAGES, pa.binary()), "caption": TEXTS},
    "large": {
        "img": pa.array(IMAGES, pa.large_binary()),
        "text": pa.array(TEXTS, pa.large_string()),
    },
    "views": {
        "image": pa.array(IMAGES, pa.binary_view()),
        "text": pa.array(TEXTS, pa.string_view()),
    },
    "dictionary": {"image": struct(), "text": pa.array(TEXTS).dictionary_encode()},
    "lists": {"image": struct(), "captions": [[t, None, ""] for t in TEXTS]},
    "by language": {"image": struct(), "caption": [{"en": t, "it": None} for t in TEXTS]},
    "another name": {"pixels": pa.array(IMAGES, pa.binary()), "text": TEXTS},
}


@pytest.mark.parametrize("form", STORED)
def test_every_way_to_store_a_row_gives_the_same_pairs(tmp_path, form):
    pq.write_table(pa.table(STORED[form]), tmp_path / "t.parquet", row_group_size=2)
    source = read(tmp_path)
    assert found(source) == PAIRS
    assert column(source, "id").tolist() == [f"t/{i}" for i in range(6)]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_row_groups_and_compression_change_nothing(tmp_path, compression, rows):
    table = pa.table({"image": struct(), "text": TEXTS})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=rows, compression=compression)
    assert found(read(tmp_path)) == PAIRS


@pytest.mark.parametrize("form", ["stream", "file", "lz4"])
def test_arrow_files_are_read_like_parquet(tmp_path, form):
    table = pa.table({"image": struct(), "text": TEXTS})
    options = pa.ipc.IpcWriteOptions(compression="lz4" if form == "lz4" else None)
    make = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
    with make(str(tmp_path / "t.arrow"), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=4)
    source = read(tmp_path)
    assert found(source) == PAIRS
    assert found(pickle.loads(pickle.dumps(source))) == PAIRS


def test_a_saved_data_set_has_its_own_order_and_splits(tmp_path):
    for split in ("train", "test"):
        folder = tmp_path / split
        folder.mkdir()
        names = ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow"]
        for number, name in enumerate(names):
            rows = slice(3 * number, 3 * number + 3)
            part = pa.table({"image": struct(IMAGES[rows]), "text": TEXTS[rows]})
            with pa.ipc.new_stream(str(folder / name), part.schema) as writer:
                writer.write_table(part)
        files = [{"filename": name} for name in names]
        (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match=r"splits \['test', 'train'\]"):
        read(tmp_path)
    assert found(read(tmp_path, split="train")) == PAIRS


def test_class_labels_become_names_and_gaps_stay_gaps(tmp_path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    big = 2**53 + 1
    table = pa.table(
        {
            "image": struct(), "text": TEXTS, "label": [0, 1, None, -1, 0, 1],
            "n": [1, None, big, 2**53, 5, 6], "score": [0.5, None, float("nan"), 1, 2, 3],
            "skipped": [[1.0]] * 6, "flag": [True, None, False, True, True, True],
        }
    )  # fmt: skip
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "t.parquet")
    source = read(tmp_path)
    assert column(source, "label").tolist() == ["cat", "dog", "", "", "cat", "dog"]
    assert column(source, "n").tolist() == [1, None, big, 2**53, 5, 6]
    assert source[2]["score"] is None
    assert source[1] == {
        "id": "t/1", "image": IMAGES[1], "captions": (TEXTS[1],), "label": "dog", "n": None,
        "score": None, "flag": None,
    }  # fmt: skip


def test_shards_may_differ_in_what_does_not_matter(tmp_path):
    parts = [
        {"image": struct(IMAGES[:2]), "text": TEXTS[:2], "score": [1, 2]},
        {"text": pa.array(TEXTS[2:4], pa.large_string()), "image": struct(IMAGES[2:4]), "score": [0.5, None]},
        {"image": struct(IMAGES[4:], width=3), "text": pa.nulls(2), "extra": ["x", "y"]},
    ]  # fmt: skip
    for number, part in enumerate(parts):
        pq.write_table(pa.table(part), tmp_path / f"train-{number:05d}-of-00003.parquet")
    source = read(tmp_path)
    assert found(source) == [*PAIRS[:4], (IMAGES[4], ()), (IMAGES[5], ())]
    assert str(column(source, "score").tolist()) == "[1.0, 2.0, 0.5, nan, nan, nan]"
    assert column(source, "extra").tolist() == ["", "", "", "", "x", "y"]
    assert source[0]["score"] == 1.0
    assert isinstance(source[0]["score"], float)
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(ValueError, match=r"of the 00003 shards of 'train', \[1\] are missing"):
        read(tmp_path)


def test_types_that_cannot_be_one_are_named_with_their_files(tmp_path):
    for name, values in (("a", ["x"]), ("b", [1])):
        table = pa.table({"image": struct(IMAGES[:1]), "text": ["t"], "kind": values})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(
        ValueError, match=r"'kind' is text in .*a\.parquet and integer in .*b\.parq"
    ):
        read(tmp_path)
    assert len(read(tmp_path, attributes=())) == 2


@pytest.mark.parametrize(
    ("lacking", "what"), [("image", "images"), ("text", "captions"), ("uid", "ids")]
)
def test_a_shard_without_a_column_that_counts_is_named(tmp_path, lacking, what):
    """Its rows would all be bad records, which only the log of the run would say."""
    whole = {"image": struct(IMAGES[:2]), "text": TEXTS[:2], "uid": ["a", "b"]}
    pq.write_table(pa.table(whole), tmp_path / "a.parquet")
    other = {"other" if name == lacking else name: value for name, value in whole.items()}
    pq.write_table(
        pa.table({**other, "uid": ["c", "d"]} if lacking != "uid" else other),
        tmp_path / "b.parquet",
    )
    with pytest.raises(ValueError, match=rf"b\.parquet has no column \['{lacking}'\] for {what}"):
        read(tmp_path)
    pq.write_table(pa.table(other).slice(0, 0), tmp_path / "b.parquet")  # no rows, nothing to miss
    assert len(read(tmp_path)) == 2


def test_captions_of_two_names_can_be_named_both(tmp_path):
    for name, image in (("text", 0), ("title", 1)):
        table = pa.table({"image": struct(IMAGES[image : image + 1]), name: TEXTS[:1]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    assert found(read(tmp_path, captions=("text", "title"))) == [
        (IMAGES[0], (TEXTS[0],)),
        (IMAGES[1], (TEXTS[0],)),
    ]


def test_ids_that_come_twice_are_counted_and_named(tmp_path, caplog):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        table = pa.table({"image": struct(IMAGES[:2]), "text": TEXTS[:2], "uid": ["x", name]})
        pq.write_table(table, tmp_path / name / "0.parquet")
    assert len(read(tmp_path)) == 4
    assert "1 ids come twice or more, such as ['x']" in caplog.text
    caplog.clear()
    # Files of one name in two folders are told apart.
    source = read(tmp_path, identity="{table}/{row}")
    assert column(source, "id").tolist() == ["one/0/0", "one/0/1", "two/0/0", "two/0/1"]
    assert not caplog.text


def test_splits_are_not_mixed_by_accident(tmp_path):
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        pq.write_table(pa.table({"image": struct(), "text": TEXTS}), tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"splits \['train', 'validation'\]"):
        read(tmp_path)
    assert len(read(tmp_path, split="train")) == 6
    with pytest.raises(ValueError, match="no split 'dev'"):
        read(tmp_path, split="dev")


def test_failed_downloads_are_left_out_and_counted(tmp_path, caplog):
    table = pa.table(
        {
            "key": [f"{i:03d}" for i in range(6)], "caption": TEXTS, "error_message": [None] * 6,
            "status": ["success", "failed_to_download"] * 3,
            "jpg": [x if i % 2 == 0 else None for i, x in enumerate(IMAGES)],
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "00000.parquet", row_group_size=2)
    source = read(tmp_path)
    assert found(source) == PAIRS[::2]
    assert column(source, "key").tolist() == ["000", "002", "004"]
    assert source[1]["id"] == "002"
    assert "left out 3 rows" in caplog.text


def test_a_row_without_an_image_is_a_bad_record(tmp_path):
    values = [{"bytes": None, "path": None}, None, {"bytes": None, "path": "../x"}]
    type_ = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(values, type_), "text": TEXTS[:3]})
    pq.write_table(table, tmp_path / "t.parquet")
    source = read(tmp_path)
    for row in range(3):
        with pytest.raises(ValueError, match=f"t/{row}"):
            source[row]


def test_paths_of_files_start_from_the_folder(tmp_path):
    (tmp_path / "x.png").write_bytes(IMAGES[0])
    pq.write_table(pa.table({"image_path": ["x.png"], "caption": ["a"]}), tmp_path / "t.parquet")
    assert found(read(tmp_path)) == [(IMAGES[0], ("a",))]


def test_several_images_of_a_row(tmp_path):
    images = [[{"bytes": x, "path": "a"} for x in IMAGES[:2]]]
    pq.write_table(pa.table({"images": images, "text": ["a"]}), tmp_path / "t.parquet")
    assert read(tmp_path)[0]["image"] == tuple(IMAGES[:2])


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": struct(), "text": TEXTS}), path)
    whole = path.read_bytes()
    for data in (whole[:-9], b"", b"<html>"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"t\.parquet cannot be read"):
            read(path)
    path.write_bytes(whole[:4] + b"\xff" * 60 + whole[64:])
    source = read(path)
    with pytest.raises(ValueError, match=r"(?s)t\.parquet cannot be read.*damaged"):
        found(source)


def test_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays(
        [struct(), pa.array(TEXTS), pa.array(TEXTS)], ["image", "text", "text"]
    )
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="the column 'text' twice"):
        read(tmp_path)


def test_large_row_groups_are_said_with_the_line_that_mends_them(tmp_path, caplog):
    big = [IMAGES[0] + bytes([i]) * 2**20 for i in range(6)]
    pq.write_table(pa.table({"image": struct(big), "text": TEXTS}), tmp_path / "t.parquet")
    caplog.set_level(logging.WARNING)
    read(tmp_path)
    assert "up to 6 rows, 6 MB" in caplog.text
    assert "bias-clip regroup-parquet" in caplog.text


def test_a_thread_keeps_recent_groups_within_its_bound(tmp_path):
    table = pa.table({"image": struct(), "text": TEXTS})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=1)
    reader = ShardReader(cache_bytes=500)
    for _ in range(2):
        for group in range(6):
            reader.group(str(tmp_path / "t.parquet"), group, ("image", "text"))
            kept = reader._kept("groups")
            assert len(kept) == 1 or sum(t.nbytes for t, _ in kept.values()) <= 500
    assert len(reader._kept("groups")) > 1


def test_files_are_written_again_with_small_groups(tmp_path):
    table = pa.table({"image": struct(), "text": TEXTS})
    path, target = tmp_path / "t.parquet", tmp_path / "out" / "t.parquet"
    pq.write_table(table.replace_schema_metadata({"k": "v"}), path)
    main([str(path), "--out", str(tmp_path / "out"), "--rows", "2"])
    assert pq.read_metadata(target).num_row_groups == 3
    assert pq.read_schema(target).metadata[b"k"] == b"v"
    assert found(read(target)) == PAIRS


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", '{"_data_files": [{"filename": "../elsewhere.arrow"}]}'),
        ("state.json", '{"_data_files": [{"filename": "/dev/zero"}]}'),
        ("state.json", '{"_data_files": [3]}'),
        ("state.json", "{}"),
        ("state.json", "[]"),
        ("dataset_dict.json", '{"splits": [".."]}'),
        ("dataset_dict.json", '{"splits": 7}'),
        ("dataset_dict.json", "\xff"),
    ],
)
def test_a_data_set_that_names_files_elsewhere_or_is_damaged_is_refused(tmp_path, file, content):
    (tmp_path / file).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / file))) as caught:
        make_source(name="parquet", path=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_column_name_that_is_not_utf_8_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "t.arrow"
    table = pa.table({"image": [b"x"], "caption": ["a"], "names": ["b"]})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    path.write_bytes(path.read_bytes().replace(b"names", b"n\xefmes"))
    with pytest.raises(ValueError, match=r"t\.arrow cannot be read: 'utf-8' codec"):
        make_source(name="parquet", path=str(path))
