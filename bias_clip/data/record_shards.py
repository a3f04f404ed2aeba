"""Writes records of a source as tar or ArrayRecord shards: in parallel, restartable, deterministic.

<folder>/plan.json       what the shards are of, written first
<folder>/00000.tar       or 00000.array_record; it appears when it is whole
<folder>/00000.json      its rows, its SHA-256, and what was dropped, written after it
<folder>/report.json     the sums of all shards, written last
"""

import contextlib
import functools
import hashlib
import io
import json
import math
import multiprocessing
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Int64

from bias_clip.core.json_object import read_object
from bias_clip.core.plans import claim_folder
from bias_clip.core.write import whole_file, write_file
from bias_clip.data.bad_records import captions, visible_captions
from bias_clip.data.image import encode_png
from bias_clip.data.image.codec import decode
from bias_clip.data.image.fingerprints import image_size
from bias_clip.data.records import Record, Source, attributes, is_missing, read_many
from bias_clip.data.sources import make_source
from bias_clip.data.sources.array_record import pack_record
from bias_clip.data.tables import file_sha256

FORMS = ("array_record", "tar")
CHECKS = ("decode", "header", "none")
REPORT = "report.json"
_CHUNK = 64  # records that are requested together
_SHOWN = 20  # examples of a reason
# What files of images begin with; the ending only helps people, all readers look at the content.
_ENDINGS = (
    (b"\xff\xd8", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"RIFF", "webp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)


class _Job(NamedTuple):
    """A shard: its number, the rows of the source that it holds, and which copy each is."""

    number: int
    rows: Int64[np.ndarray, " n"]
    copies: Int64[np.ndarray, " n"]


class _Settings(NamedTuple):
    source: Mapping[str, Any]
    folder: str
    form: str
    check: str
    need_caption: bool


def write_record_shards(
    source: Mapping[str, Any],
    folder: str | Path,
    rows: Int64[np.ndarray, " n"],
    *,
    form: str,
    shard_rows: int = 10_000,
    check: str = "decode",
    need_caption: bool = True,
    workers: int = 1,
    about: Mapping[str, Any] | None = None,
    on_rows: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Writes the given rows of a source, in their order, and returns the report.

    The bytes depend on the source and the arguments alone: not on `workers`, nor on interruptions. Whole
    shards of an interrupted run are kept. A row that stands several times is written as often; the id of
    its second copy ends in "#2".

    Args:
      source: arguments of `make_source`; each process makes its own.
      rows: indices of records.
      form: "tar" as webdataset has it, with members image, txt (first caption) and json (id, captions,
        attributes); or "array_record".
      shard_rows: rows per shard, before some are dropped.
      check: "decode" drops records whose image cannot be decoded, "header" those whose header cannot be
        read, "none" only those that cannot be read.
      need_caption: drops records without a visible caption.
      workers: processes.
      about: entries of the plan, such as the weights that the rows were drawn by.

    Returns: rows, written, shards, bytes; dropped: {reason: number}, and examples of each reason.
    Raises: ValueError for a folder of another plan, an unknown form or check, or rows that are not there.
    """
    if form not in FORMS or check not in CHECKS or shard_rows < 1 or workers < 1 or not len(rows):
        raise ValueError(
            f"got {form=}, {check=}, {shard_rows=}, {workers=} and {len(rows)} rows; expected forms "
            f"{FORMS}, checks {CHECKS}, and at least 1 of each."
        )
    folder, rows = Path(folder), np.asarray(rows, np.int64)
    length = len(make_source(**source))
    if rows.min() < 0 or rows.max() >= length:
        raise ValueError(f"got rows {rows.min()} to {rows.max()} of a source of {length} records.")
    plan = {
        "source": dict(source),
        "records": length,
        # Little-endian, so that plans agree on machines of any byte order.
        "rows_sha256": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
        **{"form": form, "shard_rows": shard_rows, "check": check, "need_caption": need_caption},
        **(about or {}),
    }
    # Claimed before anything is written: shards of two plans must never share a folder.
    claim_folder(
        folder,
        plan,
        claim=f"{folder} holds shards of another plan",
        advice="Delete it to write them again, or write elsewhere.",
    )
    settings = _Settings(source, str(folder), form, check, need_caption)
    # Numbered over all rows and not per shard: copies of a row may be in different shards, and ids must
    # differ.
    copies = _copy_numbers(rows)
    jobs = [
        _Job(number, rows[start : start + shard_rows], copies[start : start + shard_rows])
        for number, start in enumerate(range(0, len(rows), shard_rows))
    ]
    todo = [job for job in jobs if not _is_whole(settings, job)]
    # Shards of an earlier run count at once, so that the progress starts where that run stopped.
    on_rows(sum(len(job.rows) for job in jobs) - sum(len(job.rows) for job in todo))
    for count in _run(settings, todo, workers):
        on_rows(count)
    report = _report(folder, len(jobs))
    write_file(folder / REPORT, json.dumps(report, indent=1) + "\n")
    return report


def _run(settings: _Settings, jobs: Sequence[_Job], workers: int) -> Iterator[int]:
    if workers == 1 or len(jobs) < 2:
        source = make_source(**settings.source)
        for job in jobs:
            yield _write_shard(source, settings, job)
        return
    # Not a fork: the parent may hold threads of JAX or of a storage library.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        yield from pool.map(functools.partial(_write_in_process, settings), jobs)


def _write_in_process(settings: _Settings, job: _Job) -> int:
    # The arguments travel as text, because a cache needs a key that can be hashed, and a dict cannot.
    return _write_shard(_own_source(json.dumps(dict(settings.source))), settings, job)


@functools.cache
def _own_source(words: str) -> Source:
    """The source of this process, which is made once."""
    return make_source(**json.loads(words))


def _write_shard(source: Source, settings: _Settings, job: _Job) -> int:
    folder = Path(settings.folder)
    path = folder / f"{job.number:05d}.{settings.form}"
    # Pairs and not a dictionary: a row that is drawn several times is dropped as often.
    dropped: list[tuple[str, str]] = []
    written = 0
    with whole_file(path) as partial, _writer(settings.form, partial) as write:
        for start in range(0, len(job.rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            # Python integers: sources index lists with them, and JSON cannot write NumPy's.
            some = job.rows[part].tolist()
            for row, copy, record in zip(
                some, job.copies[part].tolist(), read_many(source, some), strict=True
            ):
                try:
                    write(written, _checked(record, settings, copy))
                except ValueError as error:
                    dropped.append((str(row), str(error)))
                    continue
                written += 1
    found = {"rows": len(job.rows), "written": written, "dropped": dropped}
    found |= {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    write_file(folder / f"{job.number:05d}.json", json.dumps(found, indent=1) + "\n")
    return len(job.rows)


def _checked(record: Record | ValueError, settings: _Settings, copy: int) -> Record:
    if isinstance(record, ValueError):
        raise ValueError(f"unreadable: {record}")
    images = record["image"] if isinstance(record["image"], tuple) else (record["image"],)
    # Raises for captions of a wrong type, also where no caption is needed.
    captions(record)
    if settings.need_caption and not visible_captions(record):
        raise ValueError("no caption")
    for image in images if settings.check != "none" else ():
        try:
            decode(image) if settings.check == "decode" else image_size(image)
        except ValueError as error:
            raise ValueError(f"broken image: {error}") from error
    return record if copy == 0 else {**record, "id": f"{record['id']}#{copy + 1}"}


@contextlib.contextmanager
def _writer(form: str, path: Path) -> Iterator[Callable[[int, Record], None]]:
    if form == "array_record":
        try:
            with contextlib.closing(ArrayRecordWriter(str(path), "group_size:1")) as records:
                yield lambda number, record: records.write(pack_record(record))
        # Of its writer every error is this one, such as that of a full disk; it names the file.
        except RuntimeError as error:
            raise OSError(f"{error}. Make room, and start the same line again.") from error
        return
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        yield lambda number, record: _add(tar, f"{number:09d}", record)


def _add(tar: tarfile.TarFile, key: str, record: Record) -> None:
    """Adds the members of a sample, which lie together, in the order of their names."""
    image = record["image"]
    images = [x if isinstance(x, bytes) else encode_png(np.asarray(x)) for x in _several(image)]
    fields = {}
    for i, data in enumerate(images):
        # Several equally good images are "0.jpg", "1.jpg": readers take all of them.
        fields[f"{i}.{_ending(data)}" if len(images) > 1 else _ending(data)] = data
    side = {"id": record["id"], "captions": list(record["captions"]), **_plain(record)}
    fields["json"] = json.dumps(side, ensure_ascii=False, allow_nan=False).encode()
    # Also an empty one: all samples then have the same members, one layout for their readers.
    fields["txt"] = (visible_captions(record) or ("",))[0].encode()
    for field in sorted(fields):
        entry = tarfile.TarInfo(f"{key}.{field}")
        # Read-only members, as webdataset's own writer makes them.
        entry.size, entry.mode = len(fields[field]), 0o444
        # A whole number: a fraction would give every member a pax header of 1,024 bytes. And a constant,
        # so that the same records are the same bytes.
        entry.mtime = 0
        tar.addfile(entry, io.BytesIO(fields[field]))


def _several(image: Any) -> Sequence[Any]:
    return image if isinstance(image, tuple) else (image,)


def _ending(data: bytes) -> str:
    return next((ending for start, ending in _ENDINGS if data.startswith(start)), "avif")


def _plain(record: Record) -> dict[str, Any]:
    given = {k: v.item() if isinstance(v, np.generic) else v for k, v in attributes(record).items()}
    # Checked before NaN becomes None: an infinite number is a value and must not be lost silently.
    infinite = [k for k, v in given.items() if isinstance(v, float) and math.isinf(v)]
    if infinite:
        raise ValueError(f"{infinite} are infinite, which JSON does not have")
    return {k: None if is_missing(v) else v for k, v in given.items()}


def _copy_numbers(rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """0 for the first time that a row stands in the list, 1 for the second."""
    # Stable, so that equal rows stay in the order of the list, and the first of them gets 0.
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    # For each place the start of its run of equal rows; the distance from it is the copy's number.
    first = np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))
    copies = np.empty(len(rows), np.int64)
    copies[order] = np.arange(len(rows)) - first
    return copies


def _is_whole(settings: _Settings, job: _Job) -> bool:
    path = Path(settings.folder) / f"{job.number:05d}.{settings.form}"
    about = path.with_suffix(".json")
    if not (path.is_file() and about.is_file()):
        return False
    found = read_object(about, advice="delete it to write the shard again")
    # The size and not the sum, because a restart would otherwise read all finished shards.
    return found.get("bytes") == path.stat().st_size


def _report(folder: Path, shards: int) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    examples: dict[str, dict[str, str]] = {}
    totals = dict.fromkeys(("rows", "written", "bytes"), 0)
    for number in range(shards):
        found = read_object(folder / f"{number:05d}.json", advice="write the shards again")
        totals = {name: total + found[name] for name, total in totals.items()}
        for row, reason in found["dropped"]:
            # Reasons are "kind: details", see `_checked`; whole messages nearly all differ.
            kind = reason.partition(":")[0]
            reasons[kind] = reasons.get(kind, 0) + 1
            named = examples.setdefault(kind, {})
            if len(named) < _SHOWN:
                named[row] = reason
    return {**totals, "shards": shards, "dropped": reasons, "examples": examples}
