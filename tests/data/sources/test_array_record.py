"""ArrayRecord files: what is written is read, and what is broken is named."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from bias_clip.data.image.codec import decode
from bias_clip.data.records import attributes
from bias_clip.data.sources import column, make_source
from bias_clip.data.sources.array_record import (
    array_record_source,
    pack_record,
    unpack_record,
    write_array_record,
)
from tests.data.tiny import Patches


@pytest.mark.parametrize("per_record", [1, 3])
def test_written_records_read_back(tmp_path, per_record):
    source = Patches(5, per_record=per_record)
    path = tmp_path / "folder" / "a.array_record"
    assert write_array_record(source, path) == 5
    read = array_record_source(path=str(path))
    assert len(read) == 5
    for index in (4, 0, 2):  # any order
        got, expected = read[index], source[index]
        images = got["image"] if per_record > 1 else (got["image"],)
        for image, pixels in zip(images, source.images[index], strict=True):
            np.testing.assert_array_equal(decode(image), pixels)
        del got["image"], expected["image"]
        assert got == expected
    np.testing.assert_array_equal(column(read, "number"), np.arange(5))


def test_the_embedded_data_export_without_loss(tmp_path):
    source = make_source(name="emoji", split="style", unit="entry")

    class Every100th:
        def __len__(self):
            return len(source) // 100

        def __getitem__(self, index):
            return source[100 * index]

    write_array_record(Every100th(), tmp_path / "a.array_record")
    read = make_source(name="array_record", path=str(tmp_path / "a.array_record"))
    assert len(read) > 10
    for index, expected in enumerate(Every100th()[i] for i in range(len(read))):
        got = read[index]
        for image, pixels in zip(got["image"], expected["image"], strict=True):
            np.testing.assert_array_equal(decode(image), pixels)
        assert attributes(got) == attributes(expected)
        assert got["captions"] == expected["captions"]


def test_encoded_images_stay_as_they_are():
    record = {"id": "a", "image": b"jpeg bytes", "captions": ("x",), "tone": np.int64(3)}
    assert unpack_record(pack_record(record)) == {**record, "tone": 3}


def test_files_folders_globs_and_lists_are_read_in_the_order_of_names(tmp_path):
    for part in (1, 0):
        source = Patches(3)
        source.images = source.images[:: 1 - 2 * part]
        write_array_record(source, tmp_path / f"{part}.array_record")
    folder = array_record_source(path=str(tmp_path))
    pattern = array_record_source(path=str(tmp_path / "?.array_*"))
    both = array_record_source(path=[str(tmp_path / f"{i}.array_record") for i in (0, 1)])
    assert len(folder) == 6
    for index in range(6):
        assert folder[index] == pattern[index] == both[index]
    one = array_record_source(path=str(tmp_path / "1.array_record"))
    assert folder[4] == one[1]


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"nothing at .*none.*expected an ArrayRecord file"):
        array_record_source(path=str(tmp_path / "none.array_record"))
    with pytest.raises(ValueError, match="nothing at"):
        array_record_source(path=str(tmp_path))


@pytest.mark.parametrize("keep", [0, 1000, 0.5])
def test_a_file_written_in_part_is_named(tmp_path, keep):
    write_array_record(Patches(3), tmp_path / "good.array_record")
    data = (tmp_path / "good.array_record").read_bytes()
    broken = tmp_path / "broken.array_record"
    broken.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"cannot open as ArrayRecord: \['[^,]*broken[^,]*'\]"):
        array_record_source(path=str(tmp_path))


def test_a_damaged_record_is_an_error_of_its_own(tmp_path):
    path = tmp_path / "a.array_record"
    write_array_record(Patches(4), path)
    data = bytearray(path.read_bytes())
    place = data.index(b"patch2")
    data[place : place + 6] = b"zzzzzz"
    path.write_bytes(data)
    source = array_record_source(path=str(path))
    assert [source[i]["id"] for i in (0, 1, 3)] == ["patch0", "patch1", "patch3"]
    with pytest.raises(ValueError, match=r"record 2 of .*hash mismatch"):
        source[2]


@pytest.mark.parametrize("data", [b"", b"\xc1", b"text", b"\x81\xa2id\x01", b"\x90"])
def test_records_of_another_encoding_are_errors(tmp_path, data):
    with pytest.raises(ValueError, match=f"{len(data)} bytes that are not a record"):
        unpack_record(data)
    path = tmp_path / "other.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    writer.write(data or b"x")
    writer.close()
    source = array_record_source(path=str(path))
    with pytest.raises(ValueError, match="not a record of write_array_record"):
        source[0]


def test_an_interrupted_export_leaves_no_file_of_that_name(tmp_path):
    class Stops(Patches):
        def __getitem__(self, index):
            if index == 2:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        write_array_record(Stops(4), tmp_path / "a.array_record")
    assert not (tmp_path / "a.array_record").exists()


def export(*arguments):
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "tools/export_array_record.py", *arguments],
        cwd=root,
        env={"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_the_export_tool_round_trips(tmp_path):
    first, second = tmp_path / "a.array_record", tmp_path / "b.array_record"
    write_array_record(Patches(3), first)
    done = export(f"--out={second}", "--source", "array_record", f"path={first}")
    assert done.returncode == 0
    assert "3 records" in done.stdout
    assert array_record_source(path=str(second))[1] == array_record_source(path=str(first))[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "emojis"], "unknown source 'emojis'"),
        (["--source", "emoji", "style"], "got 'style', expected key=value"),
        (["name=emoji", "split=style"], "required: --source"),
    ],
)
def test_the_export_tool_explains_wrong_arguments(tmp_path, arguments, message):
    done = export(f"--out={tmp_path / 'a'}", *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
