"""Files in buckets and on web servers: found, described, and read in ranges, many at a time.

Addresses are "gs://bucket/name", "s3://bucket/name", "https://host/name" and "http://host/name". fsspec
does the talking, with gcsfs, s3fs and aiohttp: the extras gcs, s3 and http of this package. Credentials
and endpoints are taken from where those look for them, such as GOOGLE_APPLICATION_CREDENTIALS,
AWS_ENDPOINT_URL, or FSSPEC_S3='{"anon": true}' for a public bucket.
"""

import asyncio
import functools
import io
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from pathlib import PurePath
from typing import Any, NamedTuple

ATTEMPTS = 6
FIRST_WAIT = 0.2  # seconds, doubled after each attempt: 6 s in all
TIMEOUT = 60.0  # of one request

_NEEDS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3"), "http": ("aiohttp", "http")}
_NEEDS["https"] = _NEEDS["http"]
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_STAMPS = ("generation", "ETag", "etag", "md5Hash", "LastModified", "updated")
_ADVICE = {
    401: "log in, or name the credentials",
    403: "these credentials may not read it: ask for access, or name others",
    404: "it is not there: correct the address",
    429: "the server asks for fewer requests: use fewer threads",
}


class RemoteError(OSError):
    """An object that could not be read; the message names it. The run can be started again."""


class RemoteFile(NamedTuple):
    """An object: its address, its size in bytes, and what changes when it is written again.

    The stamp is its generation or etag; "" where a server gives none, and then only another size tells
    that the object was replaced.
    """

    address: str
    size: int
    stamp: str


class Range(NamedTuple):
    """The bytes from `start` to before `stop` of an object."""

    address: str
    start: int
    stop: int


def is_remote(path: str | PurePath) -> bool:
    """Whether a path is an address of an object, or of a prefix of objects."""
    return re.match(r"(gs|s3|https?)://", str(path)) is not None


def describe(addresses: Sequence[str]) -> list[RemoteFile]:
    """Returns size and stamp of each object, asked for at the same time.

    Raises:
      RemoteError: one is not there, or cannot be read.
    """
    found = _all([(address, "_info", (), {}) for address in addresses])
    for result in found:
        if isinstance(result, RemoteError):
            raise result
    return [_file(address, about) for address, about in zip(addresses, found, strict=True)]


def find(pattern: str) -> list[RemoteFile]:
    """Returns the objects that match a glob, or those directly below a prefix, by name.

    Raises:
      RemoteError: the bucket cannot be listed; web servers have no listing.
      ValueError: an address on a web server; their files have to be named.
    """
    scheme = pattern.partition("://")[0]
    if scheme not in ("gs", "s3"):
        raise ValueError(
            f"got {pattern!r}; web servers have no listings. Name the files: "
            "https://host/{00000..00041}.tar, or a list."
        )
    if any(c in pattern for c in "*?["):
        call: _Call = (pattern, "_glob", (), {"detail": True})
    else:
        call = (pattern.rstrip("/"), "_find", (), {"detail": True, "maxdepth": 1})
    (found,) = _all([call])
    if isinstance(found, RemoteError):
        raise found
    files = [(f"{scheme}://{name}", about) for name, about in found.items()]
    return sorted(_file(n, about) for n, about in files if about.get("type") == "file")


def read_ranges(ranges: Sequence[Range]) -> list[bytes | RemoteError]:
    """Reads ranges at the same time; each is its bytes, or the error after all attempts."""
    calls: list[_Call] = [
        (r.address, "_cat_file", (), {"start": r.start, "end": r.stop}) for r in ranges
    ]
    return _all(calls, [r.stop - r.start for r in ranges])


def read_range(address: str, start: int, stop: int) -> bytes:
    """Reads one range, or raises RemoteError."""
    (data,) = read_ranges([Range(address, start, stop)])
    if isinstance(data, RemoteError):
        raise data
    return data


def read_file(address: str) -> bytes:
    """Reads an object whole, or raises RemoteError."""
    (about,) = describe([address])
    return read_range(address, 0, about.size) if about.size else b""


class RemoteReader(io.RawIOBase):
    """An object as a file that can be read and sought, such as pyarrow takes; each read is a request."""

    def __init__(self, address: str):
        """Asks for its size; raises RemoteError where that fails."""
        (self._about,) = describe([address])
        self._at = 0

    def readable(self) -> bool:
        """Whether it can be read: it can."""
        return True

    def seekable(self) -> bool:
        """Whether it can be sought: it can."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a place, as of any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._about.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Reads as much as there is, up to the size of the buffer."""
        stop = min(self._at + len(buffer), self._about.size)
        if stop <= self._at:
            return 0
        data = read_range(self._about.address, self._at, stop)
        buffer[: len(data)] = data
        self._at = stop
        return len(data)


_Call = tuple[str, str, tuple, dict[str, Any]]  # address, method, further arguments


def _all(calls: Sequence[_Call], sizes: Sequence[int] | None = None) -> list[Any]:
    """Results of all calls; those that failed are called again, with growing pauses."""
    results: list[Any] = [None] * len(calls)
    due = list(range(len(calls)))
    for attempt in range(ATTEMPTS):
        if not due:
            break
        if attempt:
            # Many hosts meet the same outage: without chance they would all come back at once.
            time.sleep(FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        again = []
        for place, got in zip(due, _once([calls[i] for i in due]), strict=True):
            wanted = None if sizes is None else sizes[place]
            # Only what failed is called again; answers of the others are kept.
            results[place], worth = _judge(calls[place][0], got, wanted, attempt + 1)
            if worth:
                again.append(place)
        due = again
    return results


def _once(calls: Sequence[_Call]) -> list[Any]:
    from fsspec.asyn import sync

    # Per process: connections and the event loop of a parent do not work in its fork.
    system = _filesystem(calls[0][0].partition("://")[0], os.getpid())

    async def gather() -> list[Any]:
        coroutines = [
            # The libraries' own timeouts differ, and some have none: a stalled server would hold the run
            # forever.
            asyncio.wait_for(_method(system, name)(address, *rest, **named), TIMEOUT)
            for address, name, rest, named in calls
        ]
        # Exceptions as results, so that one failed range does not cancel the others.
        return await asyncio.gather(*coroutines, return_exceptions=True)

    return sync(system.loop, gather)


def _method(system: Any, name: str) -> Callable[..., Awaitable[Any]]:
    return getattr(system, name)


def _judge(address: str, got: Any, size: int | None, attempt: int) -> tuple[Any, bool]:
    """What a call gave, or the error it means, and whether another attempt may help."""
    if isinstance(got, asyncio.CancelledError | KeyboardInterrupt):
        raise got
    if isinstance(got, BaseException):
        status = _status(got)
        said = f"the answer was {status}" if status else (str(got) or type(got).__name__)
        advice = _ADVICE.get(status or 0, "start the same line again when it answers")
        error = RemoteError(f"{address} cannot be read: {said}, in attempt {attempt}; {advice}.")
        error.__cause__ = got
        # Without a status the connection broke, or time was up: that may pass.
        return error, status in _AGAIN or status is None
    if size is not None and len(got) != size:
        what = "the server ignores ranges" if len(got) > size else "the answer stopped early"
        text = f"{address} gave {len(got)} of {size} bytes in attempt {attempt}: {what}."
        # Too much is no accident: a server without ranges sends the whole object each time.
        return RemoteError(text), len(got) < size
    return got, False


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error; each library has its own place for it."""
    if isinstance(error, FileNotFoundError):
        return 404
    if isinstance(error, PermissionError):
        return 403
    status = getattr(error, "status", None) or _code(error)
    return int(status) if str(status).isdigit() else None


def _code(error: BaseException) -> Any:
    for one in (error, error.__cause__):  # s3fs raises an OSError from botocore's error
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return getattr(error, "code", None)


def _file(address: str, about: dict[str, Any]) -> RemoteFile:
    if about.get("size") is None:
        raise RemoteError(f"{address}: the server does not say its size, which reading needs.")
    stamp = next((str(about[name]) for name in _STAMPS if about.get(name)), "")
    # An etag comes with or without quotes, depending on the call that asked.
    return RemoteFile(address, int(about["size"]), stamp.strip('"'))


@functools.lru_cache(maxsize=8)
def _filesystem(scheme: str, _process: int) -> Any:
    """One for all threads of a process: they share its connections."""
    module, extra = _NEEDS[scheme]
    if find_spec(module) is None:
        raise ValueError(
            f"addresses {scheme}:// are read by {module}, which is not installed: "
            f"pip install 'bias_clip[{extra}]'."
        )
    import fsspec

    # fsspec keeps one object per thread, and lists of names that may be old: neither is useful here.
    return fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False)
