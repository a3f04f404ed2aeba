"""Samples of one tar shard: its members by key and field, as the webdataset library groups them.

The key of a member is its path up to the first dot of the base name; its field is the rest, in lower
case. Members of a sample are neighbours. In some cases that library silently drops or splits samples; here
they are joined or counted, see `group`.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from bias_clip.data.sources.tar.scan import Damage, Member

IMAGES = ("jpg", "png", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "jp2", "avif")
TEXTS = ("txt", "text", "caption")
SHOWN = 5  # examples of each trouble

TROUBLES = {
    "out_of_order": "samples whose members do not lie together; they were put together",
    "repeated_key": "samples with a key that an earlier one of the shard has; each stays a sample",
    "repeated_member": "members that their sample already has; the first one is read",
    "no_key": "members whose name has no ending, or begins with a dot; left out",
}


class Shard(NamedTuple):
    """The samples of a shard, as arrays.

    Attributes:
      keys: of each sample; a repeated key has NUL and a number appended.
      layout: uint32, each sample's entry in `layouts`.
      offset, size: uint64, of all members in order; a sample has as many as its layout.
      layouts: fields of a sample, in the order of its members.
      troubles: number of each kind of trouble.
      named: trouble to the first keys or names that it concerns.
      damages: places where the tar is damaged.
    """

    keys: list[bytes]
    layout: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    layouts: list[tuple[str, ...]]
    troubles: dict[str, int]
    named: dict[str, list[str]]
    damages: list[Damage]


class _Sample(NamedTuple):
    key: bytes
    fields: dict[str, tuple[int, int]]  # to offset and size


def group(members: Iterable[Member | Damage]) -> Shard:
    """Groups the members of one shard into samples, in the order of their first members.

    A sample ends when the key changes, or when a field repeats after the sample has an image and a text.
    A field that repeats earlier is left out. A later sample with the same key is joined to the earlier
    one, as members out of order, if they share no field and do not both have an image.
    """
    samples: list[_Sample] = []
    by_key: dict[bytes, list[_Sample]] = {}
    damages: list[Damage] = []
    count: Counter[str] = Counter()
    named: dict[str, list[str]] = {}

    def note(trouble: str, name: bytes) -> None:
        count[trouble] += 1
        if count[trouble] <= SHOWN:
            named.setdefault(trouble, []).append(text(name))

    last: _Sample | None = None
    for member in members:
        if isinstance(member, Damage):
            damages.append(member)
            continue
        parts = split_name(member.name)
        if parts is None:
            if not member.name.startswith(b"__"):
                note("no_key", member.name)
            continue
        key, field = parts
        # A field that repeats before the sample is whole is a stray copy; afterwards a new sample begins.
        if last is not None and key == last.key and field in last.fields and not _whole(last):
            note("repeated_member", member.name)
            continue
        if last is None or key != last.key or field in last.fields:
            last = _Sample(key, {})
            samples.append(last)
            by_key.setdefault(key, []).append(last)
        last.fields[field] = (member.offset, member.size)
    # Only a shard with repeated keys pays for the search.
    if len(by_key) < len(samples):
        samples = _joined(samples, by_key, note)
    return _arrays(samples, count, named, damages)


def split_name(name: bytes) -> tuple[bytes, str] | None:
    """The key and the field of a member, or None for one that belongs to no sample.

    These are names without a dot, hidden files, and webdataset's reserved names, "__name__".
    """
    # The first dot of the base name, as webdataset splits: "a.left.jpg" is the field "left.jpg" of "a".
    folder, slash, base = name.rpartition(b"/")
    stem, dot, field = base.partition(b".")
    if not stem or not dot:
        return None
    if name.startswith(b"__") and name.partition(b"/")[0].endswith(b"__"):
        return None
    return folder + slash + stem, text(field).lower()


def text(name: bytes) -> str:
    """A member's name as text; bytes that are not UTF-8 stay visible."""
    return name.decode("utf-8", "backslashreplace")


def is_image(field: str) -> bool:
    """Whether the last part of a field is the ending of an image file."""
    return last_part(field) in IMAGES


def is_text(field: str) -> bool:
    """Whether the last part of a field says that it is a caption."""
    return last_part(field) in TEXTS


def last_part(field: str) -> str:
    """The ending of a field: "txt" of "caption.txt" and of "caption.txt.gz"."""
    return field.removesuffix(".gz").rpartition(".")[2]


def _whole(sample: _Sample) -> bool:
    return any(map(is_image, sample.fields)) and any(
        is_text(field) or last_part(field) == "json" for field in sample.fields
    )


def _joined(
    samples: list[_Sample],
    by_key: dict[bytes, list[_Sample]],
    note: Callable[[str, bytes], None],
) -> list[_Sample]:
    """Joins samples whose members came out of order, and numbers the others of the same key."""
    keys: dict[int, bytes] = {}  # of those that stay; a sample is known by its identity
    for key, same in by_key.items():
        kept: list[_Sample] = []
        for sample in same:
            home = next((k for k in kept if _fit(k, sample)), None)
            if home is not None:
                home.fields.update(sample.fields)
                note("out_of_order", key)
                continue
            kept.append(sample)
            # NUL cannot be in a tar's name, so the numbered key is never that of another sample.
            keys[id(sample)] = key if len(kept) == 1 else b"%s\0%d" % (key, len(kept))
            if len(kept) > 1:
                note("repeated_key", key)
    return [_Sample(keys[id(s)], s.fields) for s in samples if id(s) in keys]


def _fit(one: _Sample, two: _Sample) -> bool:
    both_images = any(map(is_image, one.fields)) and any(map(is_image, two.fields))
    return not both_images and one.fields.keys().isdisjoint(two.fields)


def _arrays(
    samples: list[_Sample],
    count: Counter[str],
    named: dict[str, list[str]],
    damages: list[Damage],
) -> Shard:
    layouts: dict[tuple[str, ...], int] = {}
    layout = [layouts.setdefault(tuple(sample.fields), len(layouts)) for sample in samples]
    places = [place for sample in samples for place in sample.fields.values()]
    # reshape, because a shard without samples would give shape [0].
    table = np.array(places, np.uint64).reshape(-1, 2)
    return Shard(
        [sample.key for sample in samples],
        np.array(layout, np.uint32),
        table[:, 0],
        table[:, 1],
        list(layouts),
        dict(count),
        named,
        damages,
    )
