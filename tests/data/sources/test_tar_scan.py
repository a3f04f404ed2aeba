"""Headers of every kind are read, and where a tar is damaged, it is said and reading goes on."""

import io
import tarfile

import pytest

from bias_clip.data.sources.tar.scan import Damage, Member, scan
from tests.data.sources.tars import END, pack

LONG = "folder/" * 20 + "name.png"


def scanned(data, **arguments):
    found = list(scan(lambda offset, count: data[offset : offset + count], len(data), **arguments))
    members = [
        (m.name.decode(), data[m.offset : m.offset + m.size])
        for m in found
        if isinstance(m, Member)
    ]
    return members, [d for d in found if isinstance(d, Damage)]


def kinds(data):
    members, damages = scanned(data)
    return [name for name, _ in members], [damage.kind for damage in damages]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mtime", [0, 1.5])  # in pax: a header of its own for each member
@pytest.mark.parametrize("window", [512, 4096, 1 << 20])
def test_members_are_those_that_tarfile_reads(form, mtime, window):
    names = ["a.jpg", "b" * 90 + "/c.txt", "empty.txt"]
    names += [LONG, "日本/é.png"] if form != tarfile.USTAR_FORMAT else []
    members = [(name, name.encode() * (n * 200)) for n, name in enumerate(names)]
    if form == tarfile.USTAR_FORMAT:
        members.append(("p" * 80 + "/" + "q" * 80, b"with a prefix"))
    data = pack(members, form=form, mtime=mtime if form == tarfile.PAX_FORMAT else int(mtime))
    assert scanned(data, window=window) == (members, [])


def test_folders_and_links_are_passed_over():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "t" * 200
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("a.txt"))
    assert kinds(buffer.getvalue()) == (["a.txt"], [])


@pytest.mark.parametrize("header", ["x", "g"])
def test_a_pax_header_names_and_sizes_the_member(header):
    info = tarfile.TarInfo("short")
    info.size = 3
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        if header == "x":
            info.pax_headers = {"path": "other.txt", "size": "3", "comment": "size=99"}
        else:
            tar.fileobj.write(tarfile.TarInfo.create_pax_global_header({"path": "other.txt"}))
            tar.offset = tar.fileobj.tell()
        tar.addfile(info, io.BytesIO(b"abc"))
    assert scanned(buffer.getvalue()) == ([("other.txt", b"abc")], [])


def test_a_size_in_base_256_is_read():
    data = bytearray(pack([("a.txt", "abc"), ("b.txt", "d")]))
    data[124:136] = b"\x80" + bytes(10) + b"\x03"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert scanned(bytes(data)) == ([("a.txt", b"abc"), ("b.txt", b"d")], [])


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_sparse_members_are_refused_by_name(kind):
    if kind == "pax":
        info = tarfile.TarInfo("hole.bin")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "hole.bin"}
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(info)
        data = buffer.getvalue()
    else:
        data = bytearray(pack([("hole.bin", "")]))
        data[156:157], data[148:156] = b"S", b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
    with pytest.raises(ValueError, match=r"sparse member.*hole\.bin"):
        scanned(bytes(data))


A, B, C = ("a.txt", "1" * 600), ("b.txt", "2" * 600), ("c.txt", "3")


def test_where_a_tar_is_damaged_it_is_said_and_what_is_behind_is_read():
    whole = pack([A, B, C])
    second = len(pack([A], end=False))
    third = len(pack([A, B], end=False))

    def broken(place):
        return whole[:place] + b"\xff" + whole[place + 1 :]

    for data, names, damages in (
        (whole, ["a.txt", "b.txt", "c.txt"], []),
        (broken(second + 3), ["a.txt", "c.txt"], ["bad_header"]),
        (whole[:second] + bytes(512) + whole[second:], ["a.txt", "b.txt", "c.txt"], ["zero_block"]),
        (whole + whole, ["a.txt", "b.txt", "c.txt"] * 2, ["joined"]),
        (pack([A, B], end=False), ["a.txt", "b.txt"], ["no_end"]),
        (whole[: third - 700], ["a.txt"], ["cut_member"]),
        (whole[: third + 100], ["a.txt", "b.txt"], ["cut_header"]),
        # A cut tar before a whole one: the rest of it lies on other multiples of 512.
        (
            whole[: second + 700] + pack([C, C, C]),
            ["a.txt", "b.txt", "c.txt", "c.txt"],
            ["bad_header"],
        ),
        (pack([A], end=False) + b"junk" * 400, ["a.txt"], ["bad_header"]),
        (b"", [], ["empty"]),
        (END * 10, [], []),
        (b"<html>" * 200, [], ["not_tar"]),
        (b"<html>", [], ["not_tar"]),
        (b"\x1f\x8b" + bytes(1000), [], ["gzip"]),
    ):
        assert kinds(data) == (names, damages)


def test_what_was_said_of_a_lost_member_is_not_taken_for_the_next():
    first = pack([("long" * 40 + ".txt", "1")], form=tarfile.PAX_FORMAT, end=False)
    damaged = first[:-900] + b"\xff" + first[-899:]  # the header behind the pax header
    assert kinds(damaged + pack([C])) == (["c.txt"], ["bad_header"])


def test_lost_bytes_are_counted():
    whole = pack([A, B, C])
    second, third = len(pack([A], end=False)), len(pack([A, B], end=False))
    damaged = whole[:second] + b"\xff" + whole[second + 1 :]
    assert scanned(damaged)[1] == [Damage("bad_header", second, third - second)]
