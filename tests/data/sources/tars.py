"""Small tars with the oddities that people's shards have, written by Python's tarfile."""

import io
import json
import tarfile

import numpy as np

from bias_clip.data.image import encode_png
from tests.data.tiny import Patches

END = bytes(1024)


def png(shade=0):
    return encode_png(np.full((2, 2, 3), shade, np.uint8))


def pack(members, *, form=tarfile.USTAR_FORMAT, mtime=0, end=True):
    """The bytes of a tar of (name, bytes or text); ends with its last member where `end` is False."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            data = data.encode() if isinstance(data, str) else data
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
        size = tar.offset
    return buffer.getvalue()[:size] + END * end


def pairs(names, *, first=0):
    """Members of samples with an image and a caption."""
    return [
        member
        for number, name in enumerate(names)
        for member in ((f"{name}.png", png(first + number)), (f"{name}.txt", f"a {name}"))
    ]


def write_patches(folder, count, *, shard=10, form=tarfile.PAX_FORMAT):
    """The records of `Patches` as shards of pairs with two captions and a number in their JSON."""
    source = Patches(count)
    folder.mkdir(exist_ok=True)
    for start in range(0, count, shard):
        members = []
        for index in range(start, min(start + shard, count)):
            record = source[index]
            about = {"captions": record["captions"], "number": record["number"]}
            image = record["image"]
            members.append(
                (f"{index:06d}.png", image if isinstance(image, bytes) else encode_png(image))
            )
            members.append((f"{index:06d}.json", json.dumps(about)))
        data = pack(members, form=form, mtime=0.5)  # a fraction: pax headers, as of img2dataset
        (folder / f"{start // shard:05d}.tar").write_bytes(data)
    return source
