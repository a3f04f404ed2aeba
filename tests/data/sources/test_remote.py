"""Files of buckets and web servers: the same records as from a disk, retries, a cache, errors with names."""

import errno
import os
import pickle
import socket
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bias_clip.core import page_cache, remote
from bias_clip.core.page_cache import PAGE, PageCache
from bias_clip.core.remote import (
    Range,
    RemoteError,
    RemoteReader,
    describe,
    find,
    read_file,
    read_range,
    read_ranges,
)
from bias_clip.data.sources import column, make_source
from tests.data.sources import range_server
from tests.data.sources.tars import pack, pairs, write_patches
from tests.train.workdir import bucket

DATA = bytes(range(256)) * 200
TABLE = pa.table({"x": list(range(1000))})


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("served")
    (made / "x.bin").write_bytes(DATA)
    write_patches(made / "shards", 25)
    pq.write_table(TABLE, made / "t.parquet")
    return made


@pytest.fixture(scope="module")
def web(folder):
    with range_server.running(folder) as address:
        yield address


@pytest.fixture(scope="module")
def google(folder):
    with bucket.running() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        remote._filesystem.cache_clear()
        upload("gs", folder)
        yield "gs://bucket"
    remote._filesystem.cache_clear()


@pytest.fixture(scope="module")
def amazon(folder):
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    keys = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
            patch.setenv(name, value)
        remote._filesystem.cache_clear()
        system = remote._filesystem("s3", os.getpid())
        system.mkdir("bucket")
        upload("s3", folder)
        yield "s3://bucket"
    server.stop()
    remote._filesystem.cache_clear()


def upload(scheme, folder):
    system = remote._filesystem(scheme, os.getpid())
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(f"bucket/{path.relative_to(folder)}", path.read_bytes())


@pytest.fixture(params=["web", pytest.param("google"), pytest.param("amazon")])
def place(request):
    """The address of the folder in each kind of storage."""
    return request.getfixturevalue(request.param)


# Ranges.


def test_objects_are_described_and_read_in_ranges(place):
    (about,) = describe([f"{place}/x.bin"])
    assert (about.size, bool(about.stamp)) == (len(DATA), True)
    spans = [(0, 10), (5000, 5001), (100, 40_000), (len(DATA) - 3, len(DATA))]
    got = read_ranges([Range(about.address, *span) for span in spans])
    assert got == [DATA[a:b] for a, b in spans]


def test_objects_are_files_to_other_readers(place):
    assert read_file(f"{place}/x.bin") == DATA
    with RemoteReader(f"{place}/x.bin") as opened:
        assert opened.seek(-10, os.SEEK_END) == len(DATA) - 10
        assert opened.read() == DATA[-10:]
        assert opened.read(5) == b""
    assert pq.read_table(RemoteReader(f"{place}/t.parquet")).equals(TABLE)


@pytest.mark.parametrize("fixture", ["google", "amazon"])
def test_buckets_are_listed(request, fixture):
    place = request.getfixturevalue(fixture)
    names = [f"{place}/shards/0000{n}.tar" for n in range(3)]
    assert [file.address for file in find(f"{place}/shards")] == names
    assert [file.address for file in find(f"{place}/shards/*[12].tar")] == names[1:]
    assert find(f"{place}/nothing/") == []


def test_web_servers_have_no_listing(web):
    with pytest.raises(ValueError, match=r"web servers have no listings\. Name the files"):
        find(f"{web}/shards")


@pytest.mark.parametrize("plan", ["503", "429,500", "cut", "short,503,cut", "502,502,502,502,502"])
def test_what_passes_is_tried_again(web, plan):
    address = f"{web}/fail={plan}/x.bin"
    assert read_range(address, 100, 9000) == DATA[100:9000]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("403", "the answer was 403, in attempt 1; these credentials may not read it"),
        ("404", "the answer was 404, in attempt 1; it is not there"),
        ("500", "the answer was 500, in attempt 6; start the same line again"),
        ("429", "the answer was 429, in attempt 6; the server asks for fewer"),
        ("short", "gave 4450 of 8900 bytes in attempt 6: the answer stopped early"),
        ("cut", "cannot be read: .*, in attempt 6"),
        ("whole", "gave 51200 of 8900 bytes in attempt 1: the server ignores ranges"),
    ],
)
def test_what_does_not_pass_is_an_error_that_names_the_object(web, plan, message):
    address = f"{web}/fail=always-{plan}/x.bin"
    with pytest.raises(RemoteError, match=message) as caught:
        read_range(address, 100, 9000)
    assert address in str(caught.value)


def test_one_object_that_fails_does_not_hide_the_others(web):
    good, bad = f"{web}/x.bin", f"{web}/fail=always-403/x.bin"
    got = read_ranges([Range(good, 0, 5), Range(bad, 0, 5), Range(good, 5, 9)])
    assert (got[0], got[2]) == (DATA[:5], DATA[5:9])
    assert isinstance(got[1], RemoteError)


@pytest.mark.parametrize("fixture", ["web", "google", "amazon"])
def test_an_object_that_is_not_there_is_named(request, fixture):
    place = request.getfixturevalue(fixture)
    with pytest.raises(RemoteError, match=r"none\.tar cannot be read: the answer was 404"):
        describe([f"{place}/none.tar"])


def test_what_an_address_needs_is_said(monkeypatch):
    monkeypatch.setattr(remote, "find_spec", lambda _: None)
    remote._filesystem.cache_clear()
    with pytest.raises(ValueError, match=r"s3:// are read by s3fs.*bias_clip\[s3\]"):
        describe(["s3://bucket/x"])


# The source.


@pytest.fixture(scope="module")
def local(folder):
    return make_source(name="webdataset", path=str(folder / "shards"))


def test_records_are_those_of_the_disk(place, local, tmp_path):
    path = f"{place}/shards/{{00000..00002}}.tar"
    source = make_source(name="webdataset", path=path, cache=str(tmp_path))
    assert len(source) == len(local)
    assert source.read_many(range(len(local))) == [local[i] for i in range(len(local))]
    assert pickle.loads(pickle.dumps(source))[3] == local[3]


@pytest.mark.parametrize("fixture", ["google", "amazon"])
def test_a_prefix_is_a_folder(request, fixture, local, tmp_path):
    place = request.getfixturevalue(fixture)
    source = make_source(name="webdataset", path=f"{place}/shards", cache=str(tmp_path))
    assert column(source, "id").tolist() == column(local, "id").tolist()
    with pytest.raises(ValueError, match="nothing at"):
        make_source(name="webdataset", path=f"{place}/nothing", cache=str(tmp_path))


def test_an_object_that_was_replaced_is_indexed_again(google, tmp_path):
    system = remote._filesystem("gs", os.getpid())
    found = []
    for names in ("ab", "cd"):
        system.pipe_file("bucket/again/0.tar", pack(pairs(names)))
        source = make_source(name="webdataset", path="gs://bucket/again/0.tar", cache=str(tmp_path))
        found += column(source, "key").tolist()
    assert found == ["a", "b", "c", "d"]


def test_signed_addresses_and_mixed_paths(web, folder, local, tmp_path):
    signed = f"{web}/shards/00001.tar?signature=a*b"
    source = make_source(name="webdataset", path=signed, cache=str(tmp_path))
    assert source[0]["image"] == local[10]["image"]
    with pytest.raises(ValueError, match="on a disk and elsewhere"):
        make_source(name="webdataset", path=[signed, str(folder / "shards")])
    with pytest.raises(ValueError, match="web servers have no listings"):
        make_source(name="webdataset", path=f"{web}/shards")


def test_a_record_that_cannot_be_had_is_no_bad_record(folder, web, tmp_path):
    """A ValueError would put another record in its place, and make another run of this one."""
    (folder / "gone").mkdir(exist_ok=True)
    (folder / "gone" / "0.tar").write_bytes(pack(pairs("ab")))
    source = make_source(name="webdataset", path=f"{web}/gone/0.tar", cache=str(tmp_path))
    (folder / "gone" / "0.tar").unlink()
    with pytest.raises(
        RemoteError, match=r"gone/0\.tar cannot be read: the answer was 404"
    ) as caught:
        source[0]
    assert not isinstance(caught.value, ValueError)


def test_records_are_read_at_the_same_time(folder, tmp_path):
    with range_server.running(folder, delay=0.2) as address:
        path = f"{address}/shards/{{00000..00002}}.tar"
        source = make_source(name="webdataset", path=path, cache=str(tmp_path))
        start = time.monotonic()
        assert len(source.read_many(range(25))) == 25
        assert time.monotonic() - start < 2  # one after the other takes five seconds


# The cache.


@pytest.fixture
def counted(monkeypatch):
    """Counts the bytes that are asked for from remote files."""
    asked, read = [], page_cache.read_ranges

    def count(ranges):
        asked.extend(r.stop - r.start for r in ranges)
        return read(ranges)

    monkeypatch.setattr(page_cache, "read_ranges", count)
    return asked


def test_what_was_read_is_kept_by_page(web, tmp_path, counted):
    (file,) = describe([f"{web}/x.bin"])
    cache = PageCache(tmp_path, 1 << 20)
    for reader in (cache, pickle.loads(pickle.dumps(cache))):
        for start, stop in ((5000, 9000), (4096, 4100), (len(DATA) - 1, len(DATA))):
            assert reader.read([(file, start, stop)]) == [DATA[start:stop]]
    assert counted == [2 * PAGE, len(DATA) % PAGE]
    other = file._replace(stamp="another")
    assert cache.read([(other, 0, 9)]) == [DATA[:9]]
    assert len(counted) == 3


def test_a_damaged_page_is_read_again(web, tmp_path, counted):
    (file,) = describe([f"{web}/x.bin"])
    cache = PageCache(tmp_path, 1 << 20)
    cache.read([(file, 0, 100)])
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[PAGE + 50] ^= 1
    path.write_bytes(data)
    assert cache.read([(file, 0, 100)]) == [DATA[:100]]
    assert len(counted) == 2


def test_the_cache_stays_within_its_size(folder, web, tmp_path):
    limit = 1 << 20
    cache = PageCache(tmp_path, limit)
    for number in range(40):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 100_000)
    for file in describe([f"{web}/{number}.bin" for number in range(40)]):
        assert cache.read([(file, 0, 100_000)]) == [
            (bytes([int(file.address.split("/")[-1][:-4])]) * 100_000)
        ]
        held = sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir())
        assert held <= limit + limit // 16
    assert held > limit // 2
    with pytest.raises(ValueError, match="expected at least 1048576"):
        PageCache(tmp_path, 5)


def test_a_full_disk_is_said_once_and_reading_goes_on(web, tmp_path, monkeypatch, caplog):
    (file,) = describe([f"{web}/x.bin"])
    cache = PageCache(tmp_path, 1 << 20)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        assert cache.read([(file, 0, 10)]) == [DATA[:10]]
    assert caplog.text.count("the disk of the cache") == 1


def test_a_source_reads_its_second_epoch_from_the_cache(web, tmp_path, counted, local):
    path = f"{web}/shards/{{00000..00002}}.tar"
    arguments = {"path": path, "cache": str(tmp_path), "cache_bytes": 1 << 24}
    source = make_source(name="webdataset", **arguments)
    for _ in range(2):
        assert source.read_many(range(25)) == [local[i] for i in range(25)]
    assert 0 < len(counted) <= 25


def test_an_error_passes_through_the_cache(web, tmp_path):
    (file,) = describe([f"{web}/x.bin"])
    bad = file._replace(address=f"{web}/fail=always-403/x.bin")
    got = PageCache(tmp_path, 1 << 20).read([(bad, 0, 5), (file, 0, 5)])
    assert isinstance(got[0], RemoteError)
    assert got[1] == DATA[:5]
