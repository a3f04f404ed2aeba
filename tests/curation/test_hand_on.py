"""Handing on: shards of drawn rows, whole after interruptions, the same for any workers; DataComp's subsets."""

import hashlib
import json
import tarfile

import numpy as np
import pytest

from bias_clip.cli.curate import hand_on as tool
from bias_clip.cli.curate import prepare
from bias_clip.curation.hand_on import read_subset, write_subset
from bias_clip.data import record_shards
from bias_clip.data.image import encode_png
from bias_clip.data.record_shards import write_record_shards
from bias_clip.data.sources import make_source
from bias_clip.data.tables import read_table, write_table

UIDS = [hashlib.md5(str(i).encode()).hexdigest() for i in range(20)]


@pytest.fixture
def folder(tmp_path):
    """Twenty images with captions, a broken one, and one without a caption."""
    (tmp_path / "images").mkdir()
    for i in range(20):
        pixels = np.full((4, 4, 3), 10 * i, np.uint8)
        path = tmp_path / "images" / f"{i:02d}.png"
        path.write_bytes(encode_png(pixels))
        path.with_suffix(".txt").write_text(f"caption {i}")
        path.with_suffix(".json").write_text(json.dumps({"uid": UIDS[i], "shade": i}))
    (tmp_path / "images" / "20.png").write_bytes(b"\x89PNG\r\n cut")
    (tmp_path / "images" / "20.txt").write_text("cut")
    (tmp_path / "images" / "21.png").write_bytes(encode_png(pixels))
    return tmp_path


def words(folder):
    return {"name": "folder", "path": str(folder / "images")}


def sums(folder):
    files = sorted(path for path in folder.iterdir() if path.suffix in (".tar", ".array_record"))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def weights(folder, values):
    ids = [f"{i:02d}.png" for i in range(22)]
    path = folder / "weights.parquet"
    columns = {"id": np.asarray(ids), "weight": np.asarray([*values, 0.0, 0.0])}
    write_table(path, columns, {"kind": "weights"})
    return path


@pytest.mark.parametrize("form", ["tar", "array_record"])
def test_prepared_shards_hold_the_same_records_and_name_what_was_dropped(folder, form, capsys):
    out = folder / "out"
    given = ["--source", "folder", f"path={folder / 'images'}", "--out", str(out), "--form", form]
    prepare.main([*given, "--shard-rows", "8"])
    report = json.loads((out / "report.json").read_text())
    assert (report["rows"], report["written"], report["shards"]) == (22, 20, 3)
    assert report["dropped"] == {"broken image": 1, "no caption": 1}
    assert "dropped: 1 no caption, such as record 21" in capsys.readouterr().out
    name = {"tar": "webdataset", "array_record": "array_record"}[form]
    made, old = make_source(name=name, path=str(out)), make_source(**words(folder))
    assert len(made) == 20
    for i in (0, 7, 8, 19):
        assert made[i]["image"] == old[i]["image"]
        assert tuple(made[i]["captions"]) == (f"caption {i}",)
        assert (made[i]["uid"], made[i]["shade"]) == (UIDS[i], i)
    with pytest.raises(SystemExit, match="2 of 22 records were dropped"):
        prepare.main([*given, "--shard-rows", "8", "--max-dropped", "1"])


def test_a_row_that_is_drawn_three_times_and_dropped_counts_three_times(folder):
    report = write_record_shards(
        words(folder), folder / "out", np.array([3, 20, 20, 20]), form="tar"
    )
    assert report["dropped"] == {"broken image": 3}
    assert report["rows"] - report["written"] == 3


@pytest.mark.parametrize("form", ["tar", "array_record"])
def test_an_interrupted_run_continues_with_the_same_bytes(folder, form, monkeypatch):
    rows = np.array([3, 3, 1, 0, 19, 7, 7, 7, 2])
    options = {"form": form, "shard_rows": 2, "check": "none"}
    write_record_shards(words(folder), folder / "once", rows, **options)
    real, calls = record_shards._write_shard, []

    def dies_at_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(record_shards, "_write_shard", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        write_record_shards(words(folder), folder / "parts", rows, **options)
    assert not (folder / "parts" / "report.json").exists()
    write_record_shards(words(folder), folder / "parts", rows, **options)
    assert len(calls) == 6  # two, one that died, and the three that were missing
    assert sums(folder / "once") == sums(folder / "parts")
    (folder / "parts" / "00001.json").unlink()  # a shard without its report is not whole
    (folder / "parts" / f"00001.{form}").write_bytes(b"cut")
    write_record_shards(words(folder), folder / "parts", rows, **options)
    assert sums(folder / "once") == sums(folder / "parts")
    # Cut short beside its whole report, as a full disk or a broken copy leaves it.
    shard = folder / "parts" / f"00001.{form}"
    shard.write_bytes(shard.read_bytes()[:-7])
    write_record_shards(words(folder), folder / "parts", rows, **options)
    assert sums(folder / "once") == sums(folder / "parts")
    with pytest.raises(ValueError, match="shards of another plan"):
        write_record_shards(words(folder), folder / "parts", rows[::-1], **options)


def test_a_full_disk_is_an_error_of_storage_that_names_the_shard(folder, monkeypatch):
    class Full(record_shards.ArrayRecordWriter):
        def __init__(self, path, options):
            super().__init__(path, options)
            self.path = path

        def close(self):
            super().close()
            raise RuntimeError(f"No space left on device; writing {self.path}")

    monkeypatch.setattr(record_shards, "ArrayRecordWriter", Full)
    with pytest.raises(OSError, match=r"No space left.*00000\.array_record.*start the same line"):
        write_record_shards(words(folder), folder / "o", np.arange(3), form="array_record")
    assert [p.name for p in (folder / "o").iterdir()] == ["plan.json"]


@pytest.mark.slow
def test_processes_write_the_same_bytes(folder):
    for name, workers in (("one", 1), ("two", 2)):
        options = {"form": "tar", "shard_rows": 5, "workers": workers}
        write_record_shards(words(folder), folder / name, np.arange(20), **options)
    assert sums(folder / "one") == sums(folder / "two")


def test_copies_have_ids_of_their_own(folder):
    rows = np.array([3, 1, 3])
    write_record_shards(words(folder), folder / "out", rows, form="array_record", check="none")
    made = make_source(name="array_record", path=str(folder / "out"))
    assert [made[i]["id"] for i in range(3)] == ["03.png", "01.png", "03.png#2"]


def test_members_of_a_sample_lie_together_without_headers_of_their_own(folder):
    write_record_shards(words(folder), folder / "out", np.arange(2), form="tar")
    with tarfile.open(folder / "out" / "00000.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [
        f"00000000{i}.{field}" for i in range(2) for field in ("json", "png", "txt")
    ]
    assert not any(m.pax_headers for m in members)


def test_the_tool_draws_as_training_does(folder, capsys):
    weighted = [0.0, 2.0, 1.0, *[0.0] * 17]
    path = str(weights(folder, weighted))
    tool.main(["--weights", path, "--as", "ids", "--out", str(folder / "ids.txt")])
    kept = ["01.png", "01.png", "02.png"]
    assert (folder / "ids.txt").read_text().split() == kept
    tool.main(["--weights", path, "--as", "copies", "--out", str(folder / "copies.parquet")])
    copies = read_table(folder / "copies.parquet", kind="copies").columns["copies"]
    assert copies.tolist() == [0, 2, 1, *[0] * 19]
    source = ["--source", "folder", f"path={folder / 'images'}"]
    tool.main(["--weights", path, "--as", "tar", "--out", str(folder / "tar"), *source])
    made = make_source(name="webdataset", path=str(folder / "tar"))
    assert [made[i]["captions"] for i in range(3)] == [
        ("caption 1",),
        ("caption 1",),
        ("caption 2",),
    ]
    with pytest.raises(SystemExit, match="need --source"):
        tool.main(["--weights", path, "--as", "tar", "--out", str(folder / "tar2")])
    assert "3 rows of 22 examples" in capsys.readouterr().out


def test_a_subset_is_sorted_and_repeats_what_weighs_more(tmp_path):
    copies = np.array([2, 0, *[1] * 18])
    assert write_subset(tmp_path / "s.npy", UIDS, copies) == 20
    raw = np.load(tmp_path / "s.npy")
    assert raw.dtype == np.dtype("u8,u8")
    assert read_subset(tmp_path / "s.npy").tolist() == sorted([UIDS[0], *UIDS[:1], *UIDS[2:]])
    np.save(tmp_path / "wrong.npy", raw[::-1])
    with pytest.raises(ValueError, match="is not sorted"):
        read_subset(tmp_path / "wrong.npy")
    with pytest.raises(ValueError, match="1 of 20 are not uids"):
        write_subset(tmp_path / "x.npy", ["7f", *UIDS[1:]], copies)


def test_a_subset_of_a_source_takes_the_uid_of_its_records(tmp_path):
    rows = [{"image": f"{i}.png", "caption": "a", "uid": UIDS[i]} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "t.jsonl").write_text(lines)
    source = make_source(name="table", path=str(tmp_path / "t.jsonl"), root=str(tmp_path))
    ids = source.columns["id"]
    write_table(
        tmp_path / "w", {"id": ids, "weight": np.array([1.0, 0.0, 3.0])}, {"kind": "weights"}
    )
    given = ["--weights", str(tmp_path / "w"), "--as", "datacomp", "--out", str(tmp_path / "s.npy")]
    table = f"path={tmp_path / 't.jsonl'}"
    tool.main([*given, "--uid", "uid", "--source", "table", table, f"root={tmp_path}"])
    assert read_subset(tmp_path / "s.npy").tolist() == sorted([UIDS[0], *[UIDS[2]] * 3])
