"""A plain folder of images: captions beside them, in a metadata file, or as class folders."""

import json
import os

import pytest

from bias_clip.data.image import encode_png
from bias_clip.data.records import column
from bias_clip.data.sources import make_source
from tests.data.tiny import Patches

IMAGE = encode_png(Patches(1)[0]["image"])


def tree(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(folder, **arguments):
    return make_source(name="folder", path=str(folder), **arguments)


def found(source):
    return {source.columns["id"][i]: source[i]["captions"] for i in range(len(source))}


def test_captions_lie_beside_their_images(tmp_path, caplog):
    tree(
        tmp_path,
        {
            "a/1.jpg": IMAGE, "a/1.txt": "\ufeffa dog\nin snow ", "a/two.dots.JPG": IMAGE,
            "a/two.dots.caption": "b", "a/two.txt": "of another", "b/lonely.png": IMAGE,
            "b/.hidden.jpg": IMAGE, "b/notes.md": "", ".git/x.jpg": IMAGE, "b/lost.txt": "x",
        },
    )  # fmt: skip
    source = read(tmp_path)
    assert found(source) == {
        "a/1.jpg": ("a dog\nin snow ",),
        "a/two.dots.JPG": ("b",),
        "b/lonely.png": (),
    }
    assert column(source, "label").tolist() == ["a", "a", "b"]
    assert "1 of 3 images have no caption" in caplog.text
    assert found(read(tmp_path, lines=True))["a/1.jpg"] == ("a dog", "in snow ")


def test_side_data_become_attributes(tmp_path):
    side = {"caption": "a dog", "score": 0.5, "width": 77, "key": "000", "error_message": None}
    tree(tmp_path, {"0/000.jpg": IMAGE, "0/000.json": json.dumps(side), "0/001.jpg": IMAGE})
    tree(tmp_path, {"0/000.txt": "a dog", "0/002.jpg": IMAGE, "0/002.json": "{cut"})
    source = read(tmp_path)
    assert source[0]["captions"] == ("a dog",)
    assert (source[0]["score"], source[0]["width"], source[0]["key"]) == (0.5, 77, "000")
    assert column(source, "width").tolist() == [77, None, None]


def test_class_folders_are_captions_and_labels(tmp_path):
    tree(tmp_path, {f"{split}/{kind}/1.jpg": IMAGE for split in ("train", "test") for kind in "ab"})
    with pytest.raises(ValueError, match=r"splits \['train', 'test'\]"):
        read(tmp_path)
    source = read(tmp_path, split="train")
    assert found(source) == {"a/1.jpg": ("a",), "b/1.jpg": ("b",)}
    assert column(source, "label").tolist() == ["a", "b"]
    photo = read(tmp_path, split="test", captions=("a photo of a {label}",))
    assert photo[1]["captions"] == ("a photo of a b",)


def test_a_folder_named_by_a_number_of_repeats_is_read_once(tmp_path):
    """Some trainers read the folder "10_frog style" ten times; here the name is a label like others."""
    tree(tmp_path, {"10_frog style/1.jpg": IMAGE, "10_frog style/1.caption": "a frog"})
    tree(tmp_path, {"3_dog/1.jpg": IMAGE, "3_dog/1.txt": "a dog"})
    source = read(tmp_path)
    assert found(source) == {"10_frog style/1.jpg": ("a frog",), "3_dog/1.jpg": ("a dog",)}
    assert column(source, "label").tolist() == ["10_frog style", "3_dog"]


def test_metadata_name_the_images(tmp_path):
    tree(tmp_path, {"sub/1.jpg": IMAGE, "2.jpg": IMAGE, "without_row.jpg": IMAGE})
    tree(tmp_path, {"metadata.csv": "file_name,text,score\nsub/1.jpg,a dog,0.5\n2.jpg,,1\n"})
    source = read(tmp_path)
    assert [source[i]["captions"] for i in range(2)] == [("a dog",), ()]
    assert column(source, "score").tolist() == [0.5, 1.0]
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 images that do not exist, such as '2\.jpg'"):
        read(tmp_path)


def test_several_images_of_a_row(tmp_path):
    row = {"before_file_name": "1.jpg", "after_file_name": "2.jpg", "text": "x"}
    tree(tmp_path, {"1.jpg": IMAGE, "2.jpg": IMAGE, "metadata.jsonl": json.dumps(row)})
    assert read(tmp_path)[0]["image"] == (IMAGE, IMAGE)


def test_links_out_and_pipes_are_bad_records(tmp_path):
    tree(tmp_path, {"in/1.jpg": IMAGE, "in/2.jpg": IMAGE, "secret": "x"})
    (tmp_path / "in" / "1.txt").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "in" / "2.txt")
    source = read(tmp_path / "in")
    for row in range(2):
        with pytest.raises(ValueError, match=r"outside of|not a regular file"):
            source[row]


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no images"):
        read(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        read(tmp_path / "none")
