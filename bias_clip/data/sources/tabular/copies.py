"""Local copies of tables in buckets and on web servers, made once and again when a table changes."""

import hashlib
import os
from pathlib import Path

from bias_clip.core.remote import Range, describe, read_ranges
from bias_clip.core.write import whole_file

_PART = 2**24  # bytes of one request


def local_copy(address: str) -> Path:
    """Returns the copy of an object in the user's cache folder, under the object's own name.

    Raises: RemoteError for an object that cannot be read, OSError for a copy that cannot be written.
    """
    (file,) = describe([address])
    # The stamp is part of the name: a table that was replaced gets a new copy.
    key = hashlib.sha256(f"{address} {file.size} {file.stamp}".encode()).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    target = cache / "bias_clip" / "tables" / key / address.rpartition("/")[2]
    if target.is_file() and target.stat().st_size == file.size:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    starts = range(0, file.size, _PART)
    ranges = [Range(address, start, min(start + _PART, file.size)) for start in starts]
    # Processes of one host may copy at the same time, each to a name of its own.
    with whole_file(target, suffix=f".{os.getpid()}") as partial, partial.open("wb") as out:
        for part in read_ranges(ranges):
            if isinstance(part, Exception):
                raise part
            out.write(part)
    return target
