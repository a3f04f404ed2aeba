"""Tar shards as a source: grouping, choice of members, the index, and the same batches as ArrayRecord."""

import errno
import gzip
import io
import json
import logging
import os
import shutil

import numpy as np
import pytest

from bias_clip.data.sources import column, make_source
from bias_clip.data.sources.array_record import write_array_record
from bias_clip.data.sources.tar import parts as tar_parts
from bias_clip.data.sources.tar.files import expand_braces, find_files
from bias_clip.data.sources.tar.index import describe_troubles, open_index
from tests.data.sources.tars import pack, pairs, png, write_patches
from tests.data.streams import assert_same, batches_and_state


def read(folder, members=None, **arguments):
    if members is not None:
        (folder / "s.tar").write_bytes(pack(members))
        arguments = {"path": str(folder / "s.tar"), **arguments}
    return make_source(name="webdataset", **{"path": str(folder), **arguments})


def ids(source):
    return [source[i]["id"] for i in range(len(source))]


def index_of(path):
    files = find_files(str(path), endings=[".tar"])
    return open_index(files, path.parent / "index" if path.is_file() else path / "index")


# Which files.


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{00000..00003}.tar", ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]),
        ("{00002..00000}", ["00002", "00001", "00000"]),
        ("{9..11}", ["9", "10", "11"]),
        ("0{0,2}.tar", ["00.tar", "02.tar"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("{a}{0,1}", ["{a}0", "{a}1"]),
        ("{a,{b,c}}", ["a", "b", "c"]),
    ],
)
def test_braces_expand_as_in_webdataset(pattern, names):
    assert sorted(expand_braces(pattern)) == sorted(names)
    if "," not in pattern or pattern.count("{") == 1:
        assert expand_braces(pattern) == names


def test_a_path_is_a_file_a_folder_a_pattern_or_a_list(tmp_path):
    for name in ("00000", "00001", "00002"):
        (tmp_path / f"{name}.tar").write_bytes(pack(pairs("ab")))
    (tmp_path / "other.txt").write_text("")
    all_of_them = [f"0000{n}/{key}" for n in range(3) for key in "ab"]
    for path in (
        str(tmp_path),
        tmp_path,
        f"{tmp_path}/*.tar",
        f"{tmp_path}/{{00000..00002}}.tar",
        f"{tmp_path}/00000.tar::{tmp_path}/{{00001,00002}}.tar",
        [f"{tmp_path}/00000.tar", tmp_path / "00001.tar", f"{tmp_path}/00002.tar"],
    ):
        assert ids(read(tmp_path, path=path)) == all_of_them
    for path, message in (
        (f"{tmp_path}/{{00000..00004}}.tar", r"2 of the 5 files .*00003\.tar"),
        (f"{tmp_path}/none*", "nothing at"),
        ([], "names no files"),
        ([f"{tmp_path}/00000.tar"] * 2, "files come twice"),
    ):
        with pytest.raises(ValueError, match=message):
            read(tmp_path, path=path)


def test_shards_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("clean", "web"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.tar").write_bytes(pack(pairs("a")))
    source = read(tmp_path, path=[str(tmp_path / "clean"), str(tmp_path / "web")])
    assert ids(source) == ["clean/0/a", "web/0/a"]
    assert column(source, "shard").tolist() == ["clean/0", "web/0"]


# Keys and samples.


def test_keys_end_at_the_first_dot_of_the_base_name(tmp_path):
    names = ["n01/x_1", "v1.0/x", "./d/x", "a b", "é/日", "/abs/x", "a/../b/x"]
    source = read(tmp_path, pairs(names))
    assert column(source, "key").tolist() == names
    left = ["README", ".DS_Store", "._x.jpg", "d/._x.jpg", "__meta__", "__index__/a.txt", "no/end"]
    source = read(tmp_path, [*pairs("a"), *((name, "x") for name in left)])
    assert ids(source) == ["s/a"]


def test_fields_are_lower_case_and_dots_in_names_are_part_of_them(tmp_path):
    source = read(tmp_path, [("p.final.V2.PNG", png(1)), ("p.final.v2.TXT", "t")])
    assert (source[0]["key"], source[0]["captions"]) == ("p", ("t",))


def test_members_out_of_order_are_put_together(tmp_path, caplog):
    a, b = pairs("ab")[:2], pairs("ab")[2:]
    source = read(tmp_path, [a[0], b[0], a[1], b[1]])
    assert [(source[i]["key"], source[i]["captions"]) for i in (0, 1)] == [
        ("a", ("a a",)),
        ("b", ("a b",)),
    ]
    assert (
        "2 samples whose members do not lie together; they were put together: s.tar: a"
        in caplog.text
    )


def test_a_key_that_comes_back_is_a_sample_with_an_id_of_its_own(tmp_path, caplog):
    source = read(tmp_path, [*pairs("aba"), *pairs("a", first=9)])
    assert ids(source) == ["s/a", "s/b", "s/a#2", "s/a#3"]
    assert column(source, "key").tolist() == ["a", "b", "a", "a"]
    assert source[3]["image"] == png(9)
    assert "2 samples with a key that an earlier one" in caplog.text


def test_a_member_that_comes_twice_is_read_once(tmp_path, caplog):
    source = read(tmp_path, [("a.png", png(1)), ("a.png", png(2)), ("a.txt", "t")])
    assert (len(source), source[0]["image"]) == (1, png(1))
    assert (
        "1 members that their sample already has; the first one is read: s.tar: a.png"
        in caplog.text
    )


def test_samples_without_image_or_caption_are_left_out_and_counted(tmp_path, caplog):
    lonely = [m for n in range(3000) for m in ([(f"t{n}.txt", "x")] if n % 3 else pairs([f"p{n}"]))]
    source = read(tmp_path, [*lonely, ("i.png", png())])
    kept = [f"s/p{n}" for n in range(0, 3000, 3)]
    assert ids(source) == column(source, "id").tolist() == kept
    assert source[-1]["id"] == kept[-1]
    assert (
        "2001 of 3001 samples have no image or no caption member: 2000 with ['txt']" in caplog.text
    )
    assert len(read(tmp_path, captions=())) == 1001
    with pytest.raises(IndexError):
        source[1000]
    with pytest.raises(ValueError, match=r"2 of 2 samples have no image.*with \['txt'\].*image="):
        read(tmp_path, [("a.txt", "x"), ("b.txt", "x")])


# What of a sample is read.


def test_captions_come_from_texts_or_from_json(tmp_path):
    about = json.dumps({"caption": "j", "captions": ["j", "k", ""], "deep": {"en": "d"}, "n": None})
    image = ("png", png())
    for fields, captions, expected in (
        ([image, ("json", about), ("txt", "t")], None, ("t",)),
        ([image, ("txt", "\ufeff two\r\nlines\0 ")], None, ("\ufeff two\r\nlines\0 ",)),
        ([image, ("alt.txt", "1"), ("caption", "2"), ("text", "3")], None, ("1", "2", "3")),
        ([image, ("txt.gz", gzip.compress(b"z"))], None, ("z",)),
        ([image, ("json", about)], None, ("j", "k", "")),
        ([image, ("json", about), ("txt", "t")], ("txt", "json:captions"), ("t", "j", "k", "")),
        ([image, ("json", about), ("txt", "t")], "json:deep.en", ("d",)),
        ([image, ("json", about), ("txt", "t")], "json:n", ()),
        ([image, ("0.txt", "a"), ("1.txt", "b"), ("url.txt", "c")], ("[0-9].txt",), ("a", "b")),
    ):
        members = [(f"a.{field}", data) for field, data in fields]
        assert read(tmp_path, members, captions=captions)[0]["captions"] == expected


def test_images_are_the_first_of_the_usual_endings_or_as_asked(tmp_path):
    for fields, image, expected in (
        (["webp", "jpg", "seg.png"], None, "jpg"),
        (["left.jpg", "right.jpg"], None, ("left.jpg", "right.jpg")),
        (["jpg", "seg.png"], "seg.png", "seg.png"),
        (["jpg", "png"], ("gif", "png"), "png"),
        (["0.jpg", "1.jpg", "jpg"], "[0-9].jpg", ("0.jpg", "1.jpg")),
    ):
        members = [(f"a.{field}", field) for field in (*fields, "txt")]
        found = read(tmp_path, members, image=image)[0]["image"]
        assert found == (
            expected.encode() if isinstance(expected, str) else tuple(e.encode() for e in expected)
        )


def array(value, **arguments):
    buffer = io.BytesIO()
    np.save(buffer, value, **arguments)
    return buffer.getvalue()


def test_side_data_are_attributes(tmp_path):
    about = {"caption": "c", "id": 7, "width": 3, "score": 0.5, "none": None, "list": [1, "é"]}
    source = read(
        tmp_path,
        [
            *pairs("a"),
            ("a.json", json.dumps(about)),
            ("a.cls", " 3\n"),
            ("a.npy", array(np.arange(3, dtype=np.float16))),
            ("a.alt.txt", "other"),
            ("a.seg.png", png()),
        ],
    )
    record = source[0]
    assert record.pop("npy").tolist() == [0, 1, 2]
    own = {"id": "s/a", "key": "a", "shard": "s", "image": png(), "captions": ("a a",)}
    side = {
        "caption": "c",
        "json.id": 7,
        "width": 3,
        "score": 0.5,
        "none": None,
        "list": '[1, "é"]',
    }
    assert record == {**own, **side, "cls": 3, "alt.txt": "other"}
    assert column(source, "cls").tolist() == [3]
    assert set(read(tmp_path, attributes=())[0]) == {"id", "key", "shard", "image", "captions"}
    assert read(tmp_path, attributes="seg.png")[0]["seg.png"] == png()


def test_broken_side_data_do_not_lose_the_pair_and_are_told(tmp_path):
    hostile = array(np.array([{"a": 1}], object), allow_pickle=True)
    source = read(
        tmp_path,
        [*pairs("a"), ("a.json", "{"), ("a.npy", hostile), ("a.cls", "x"), ("a.npz", array([1]))],
    )
    record = source[0]
    assert record["captions"] == ("a a",)
    assert "is not JSON" in record["json_error"]
    assert "allow_pickle=False" in record["npy_error"]
    assert "not an integer" in record["cls_error"]
    assert "not a file of several arrays" in record["npz_error"]


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("a.txt", b"caf\xe9"), r"s/a: the member 'txt' is not UTF-8"),
        (("a.json", "{"), r"s/a: the member 'json' is not JSON"),
        (("a.txt.gz", b"no"), r"s/a: the member 'txt.gz' cannot be unpacked"),
    ],
)
def test_a_broken_caption_is_an_error_that_names_the_record(tmp_path, member, message):
    source = read(tmp_path, [("a.png", png()), member, *pairs("b")])
    with pytest.raises(ValueError, match=message):
        source[0]
    assert source[1]["captions"] == ("a b",)
    assert isinstance(source.read_many([1, 0])[1], ValueError)


def test_a_sample_is_read_at_once_where_its_members_lie_together(tmp_path, monkeypatch):
    far = [("z%03d.png" % n, png() + bytes(4096)) for n in range(40)]  # noqa: UP031
    source = read(tmp_path, [*pairs("a"), ("b.png", png()), *far, ("b.txt", "t")])
    reads, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda *args: reads.append(args[1:]) or pread(*args))
    source[0]
    assert len(reads) == 1
    assert source[1]["captions"] == ("t",)
    assert len(reads) == 3


# Damage.


def test_damage_is_named_and_what_is_behind_is_read(tmp_path, caplog):
    good = pack(pairs("ab"))
    (tmp_path / "0.tar").write_bytes(good)
    (tmp_path / "1.tar").write_bytes(good + pack(pairs("c")))
    (tmp_path / "2.tar").write_bytes(good[:-1600])
    (tmp_path / "3.tar").write_bytes(b"")
    (tmp_path / "4.tar").write_bytes(pack([]))
    source = read(tmp_path)
    assert ids(source) == ["0/a", "0/b", "1/a", "1/b", "1/c", "2/a"]
    for said in (
        "joined|another tar follows the end mark",
        "1.tar at byte",
        "3.tar at byte 0",
        "no members",
    ):
        assert any(part in caplog.text for part in said.split("|"))
    with pytest.raises(ValueError, match="damaged='refuse'"):
        read(tmp_path, damaged="refuse")
    with pytest.raises(ValueError, match="expected one of"):
        read(tmp_path, damaged="skip")
    with pytest.raises(ValueError, match=r"1 shards have no samples. 3.tar: the file has 0 bytes"):
        read(tmp_path, path=str(tmp_path / "3.tar"))


def test_counts_beside_the_shards_are_compared(tmp_path, caplog):
    (tmp_path / "0.tar").write_bytes(pack(pairs("ab")))
    (tmp_path / "1.tar").write_bytes(pack(pairs("ab")))
    (tmp_path / "sizes.json").write_text(json.dumps({"0.tar": 3, "1.tar": 2}))
    (tmp_path / "1_stats.json").write_text(json.dumps({"successes": 5}))
    read(tmp_path)
    assert "0.tar has 2 samples, sizes.json says 3" in caplog.text
    assert "1.tar has 2 samples, 1_stats.json says 5" in caplog.text
    assert "sizes.json says 2" not in caplog.text


def test_a_cut_shard_is_compared_with_what_img2dataset_wrote(tmp_path, caplog):
    """The cut leaves no trace in the tar itself: between two samples, with an end mark behind."""
    whole = pack(pairs("abc"))
    about = {"count": 4, "successes": 3, "failed_to_download": 1, "status_dict": {"success": 3}}
    (tmp_path / "00000_stats.json").write_text(json.dumps(about))
    (tmp_path / "00000.tar").write_bytes(whole)
    assert ids(read(tmp_path)) == ["00000/a", "00000/b", "00000/c"]
    assert not caplog.text
    (tmp_path / "00000.tar").write_bytes(pack(pairs("ab")))
    assert ids(read(tmp_path)) == ["00000/a", "00000/b"]
    assert "00000.tar has 2 samples, 00000_stats.json says 3" in caplog.text


def test_compressed_shards_are_refused_with_the_line_that_unpacks_them(tmp_path):
    plain = pack(pairs("ab"))
    half = len(pack(pairs("a"), end=False))
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress(plain[:half]) + gzip.compress(plain[half:]))
    (tmp_path / "1.tar").write_bytes(plain)
    with pytest.raises(ValueError, match=r"1 shards are compressed.*0\.tar\.gz") as caught:
        read(tmp_path)
    line = str(caught.value).split("such as: ")[1]
    assert os.system(line) == 0
    os.remove(tmp_path / "0.tar.gz")
    assert ids(read(tmp_path)) == ["0/a", "0/b", "1/a", "1/b"]


# The index.


def test_the_index_is_made_once_and_of_changed_shards_anew(tmp_path, monkeypatch):
    for name in "012":
        (tmp_path / f"{name}.tar").write_bytes(pack(pairs("ab")))
    scanned, scan = [], tar_parts.scan
    monkeypatch.setattr(tar_parts, "scan", lambda r, s, **k: scanned.append(s) or scan(r, s, **k))
    assert len(read(tmp_path)) == 6
    assert len(read(tmp_path)) == 6
    assert len(scanned) == 3
    (tmp_path / "1.tar").write_bytes(
        pack([*pairs("cd"), ("e.png", png()), ("e.json", '{"caption": "e"}')])
    )
    assert ids(read(tmp_path)) == ["0/a", "0/b", "1/c", "1/d", "1/e", "2/a", "2/b"]
    assert len(scanned) == 4
    (tmp_path / "0.tar").touch()
    assert ids(read(tmp_path)) == ["0/a", "0/b", "1/c", "1/d", "1/e", "2/a", "2/b"]
    assert len(scanned) == 5
    assert (
        len(list((tmp_path / "webdataset_index").iterdir())) == 1
    )  # nothing is left of the others


def test_a_killed_index_goes_on_behind_what_was_done(tmp_path, monkeypatch):
    for name in "0123":
        (tmp_path / f"{name}.tar").write_bytes(pack(pairs("ab")))
    scanned, scan = [], tar_parts.scan

    def stops(read_at, size, **arguments):
        scanned.append(size)
        if len(scanned) == 3:
            raise KeyboardInterrupt
        return scan(read_at, size, **arguments)

    monkeypatch.setattr(tar_parts, "scan", stops)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path)
    assert len(read(tmp_path)) == 8
    assert len(scanned) == 5


def test_a_full_disk_of_the_index_says_what_to_do(tmp_path, monkeypatch):
    """Before the columns are mapped: writing to a map on a full disk would end the process by a signal."""
    (tmp_path / "0.tar").write_bytes(pack(pairs("ab")))
    asked = []

    def full(handle, start, size):
        asked.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"disk of the index is full.*member\.npy.*`cache`"):
        read(tmp_path)
    assert asked[0] > 128  # the header of the column and its values
    monkeypatch.undo()
    assert ids(read(tmp_path)) == ["0/a", "0/b"]


def test_a_damaged_index_says_what_to_do(tmp_path):
    (tmp_path / "0.tar").write_bytes(pack(pairs("ab")))
    read(tmp_path)
    (place,) = (tmp_path / "webdataset_index").iterdir()
    (place / "offset.npy").write_bytes((place / "offset.npy").read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"is damaged.*delete it, it is made again"):
        read(tmp_path)
    shutil.rmtree(place)
    assert len(read(tmp_path)) == 2


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(tmp_path, monkeypatch):
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "0.tar").write_bytes(pack(pairs("ab")))
    assert len(read(shards, cache=str(tmp_path / "cache"))) == 2
    assert list((tmp_path / "cache" / "webdataset_index").iterdir())
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert len(read(shards)) == 2
    assert list((tmp_path / "home" / "bias_clip" / "webdataset_index").iterdir())
    assert [path.name for path in shards.iterdir()] == ["0.tar"]
    with pytest.raises(ValueError, match="expected a folder on this machine"):
        read(shards, cache="gs://bucket/cache")


def test_the_index_holds_no_object_per_sample(tmp_path):
    write_patches(tmp_path / "t", 40)
    index = index_of(tmp_path / "t")
    assert describe_troubles(index) == ""
    assert {len(index.first), index.manifest["lengths"]["layout"]} == {5, 40}
    arrays = [index.member, index.layout, index.key_end, index.keys, index.offset, index.size]
    assert not any(array.flags.owndata for array in arrays)
    assert sum(array.nbytes for array in arrays) / 40 < 30  # two members, six characters


def test_a_shard_that_became_shorter_is_an_error_at_its_records(tmp_path):
    path = tmp_path / "0.tar"
    path.write_bytes(pack(pairs("ab")))
    source = read(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"0\.tar ends before byte .* start the run again"):
        source[1]


# The stream.


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same 37 records as ArrayRecord and as tar shards."""
    folder = tmp_path_factory.mktemp("both")
    records = write_patches(folder / "tars", 37)
    write_array_record(records, folder / "all.array_record")
    return (
        make_source(name="array_record", path=str(folder / "all.array_record")),
        make_source(name="webdataset", path=str(folder / "tars")),
    )


@pytest.mark.parametrize(
    "reading",
    [
        {},
        {"num_threads": 3},
        pytest.param({"num_workers": 1, "num_threads": 1}, marks=pytest.mark.slow),
    ],
)
def test_tars_give_the_batches_of_array_record(both, fns, reading):
    records, tars = both
    expected, _ = batches_and_state(records, fns, 7)
    first, state = batches_and_state(tars, fns, 3, **reading)
    rest, _ = batches_and_state(tars, fns, 4, start=state, **reading)
    assert_same(first + rest, expected)


def test_two_hosts_share_the_batches_of_one(both, fns):
    records, tars = both
    expected, _ = batches_and_state(records, fns, 4)
    hosts = [batches_and_state(tars, fns, 4, process_count=2, process_index=h)[0] for h in (0, 1)]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*hosts, strict=True)]
    assert_same(joined, expected)


def test_attributes_of_tars_are_columns_of_batches(both, fns):
    records, tars = both
    columns = {"labels": "number"}
    assert_same(
        batches_and_state(tars, fns, 3, columns=columns)[0],
        batches_and_state(records, fns, 3, columns=columns)[0],
    )


def test_nothing_is_said_of_sound_shards(both, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        write_patches(tmp_path / "t", 12)
        read(tmp_path / "t")
    assert not caplog.records


def test_the_rows_of_a_chunk_are_asked_for_together(both, fns, monkeypatch):
    _, tars = both
    asked, read_many = [], type(tars).read_many
    monkeypatch.setattr(
        type(tars), "read_many", lambda self, i: asked.append(len(i)) or read_many(self, i)
    )
    batches_and_state(tars, fns, 2, batch_size=16)
    assert asked == [1, 16, 16]  # the first is the check of one example
