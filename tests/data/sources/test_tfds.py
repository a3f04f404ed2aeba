"""The TFDS path on a small data set prepared here; TensorFlow is neither needed nor loaded."""

import shutil
import sys

import numpy as np
import pytest

from bias_clip.data.image.codec import decode
from bias_clip.data.sources import column, make_source
from tests.data import tiny_captions


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    builder = tiny_captions.TinyCaptions(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return folder


def source_of(folder, **arguments):
    defaults = {"dataset": "tiny_captions", "split": "train", "attribute_keys": ("number",)}
    return make_source(name="tfds", data_dir=str(folder), **{**defaults, **arguments})


def test_every_record_is_there_with_its_image_and_text(prepared):
    source = source_of(prepared)
    assert len(source) == 7
    assert sorted(column(source, "number").tolist()) == list(range(7))
    for index in range(7):
        record = source[index]
        number = record["number"]
        assert record["id"] == f"tiny_captions/train/{index}"
        assert record["captions"] == (f"Nummer {number} für alle",)
        np.testing.assert_array_equal(decode(record["image"]), tiny_captions.image(number))
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("text_key", "expected"),
    [
        ("label", ("dog",)),
        ("tags", ("x", "y")),
        ("captions/text", ("first 7", "second 7")),
    ],
)
def test_captions_from_labels_lists_and_nested_features(prepared, text_key, expected):
    source = source_of(prepared, split="test", text_key=text_key)
    record = source[0] if source[0]["number"] == 7 else source[1]
    assert record["captions"] == expected


def test_nested_image_own_id_and_label_attribute(prepared):
    keys = {"image_key": "views/side", "id_key": "number", "attribute_keys": ("label", "number")}
    record = source_of(prepared, **keys)[3]
    assert record["id"] == str(record["number"])
    assert record["label"] == ("cat", "dog")[record["number"] % 2]
    np.testing.assert_array_equal(decode(record["image"])[0, 0], [record["number"]] * 4)


def test_slices_and_sums_of_splits(prepared):
    assert len(source_of(prepared, split="train[:3]")) == 3
    assert len(source_of(prepared, split="train+test[:1]")) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "tiny_caption"}, "TFDS in .*: Dataset tiny_caption not found"),
        ({"split": "valid"}, r"no split 'valid', expected one of \['test', 'train'\]"),
        ({"split": "train[zz]"}, "train\\[zz\\]"),
        ({"text_key": "caption"}, "no feature 'caption', the data set has .*'captions'"),
        ({"image_key": "views/top"}, "no feature 'views/top'"),
        ({"attribute_keys": ("size",)}, "no feature 'size'"),
        ({"id_key": "key"}, "no feature 'key'"),
    ],
)
def test_wrong_names_are_errors_that_list_the_valid_ones(prepared, arguments, message):
    with pytest.raises(ValueError, match=message):
        source_of(prepared, **arguments)


def test_unprepared_data_says_how_to_prepare(tmp_path):
    with pytest.raises(ValueError, match=r"not prepared in .*download=True"):
        source_of(tmp_path)


def test_missing_files_are_found_at_the_start(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    file = next((tmp_path / "copy").rglob("*train.array_record*"))
    file.unlink()
    assert len(source_of(tmp_path / "copy", split="test")) == 2
    with pytest.raises(ValueError, match=f"lacks files in .*{file.name}"):
        source_of(tmp_path / "copy")


def test_another_file_format_is_refused(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    info = next((tmp_path / "copy").rglob("dataset_info.json"))
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match="prepared with file_format='array_record'"):
        source_of(tmp_path / "copy")


def test_broken_shards_give_broken_records(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    file = next((tmp_path / "copy").rglob("*train.array_record*"))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cannot read tiny_captions/train/1"):
        source_of(tmp_path / "copy")[1]
