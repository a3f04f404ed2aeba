"""The index of tar shards: where each sample is, made once and memory-mapped afterwards.

A shard that changed is scanned again; the others are taken from the previous index.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from bias_clip.data.sources.tar.columns import MANIFEST, Index, load, short_hash
from bias_clip.data.sources.tar.files import File
from bias_clip.data.sources.tar.join import join
from bias_clip.data.sources.tar.parts import make_parts
from bias_clip.data.sources.tar.samples import SHOWN, TROUBLES
from bias_clip.data.sources.tar.scan import KINDS


def open_index(files: Sequence[File], folder: Path) -> Index:
    """Opens the index of shards; makes it first if it does not exist or a shard has changed.

    If the process is killed meanwhile, the next call continues after the finished shards.

    Args:
      files: the shards.
      folder: where indices are kept; processes may share it.

    Raises:
      ValueError: compressed shards, sparse members, no samples, or a damaged index.
      OSError: a shard cannot be read, or the folder cannot be written.
    """
    # The first hash is of the shards' paths, the second also of sizes and stamps: older indices of the same
    # shards are found by the first.
    names, state = (short_hash([f[:2] for f in files]), short_hash(files))
    place = folder / f"{names}-{state}"
    # The manifest is written last, so its absence means that an index is missing or unfinished.
    if not (place / MANIFEST).is_file():
        older = [p.parent for p in folder.glob(f"{names}-*/{MANIFEST}")]
        parts = folder / f"{names}.parts"
        make_parts(files, parts, older)
        join(files, parts, place)
        for path in (parts, *older):
            shutil.rmtree(path, ignore_errors=True)  # another process may delete it too
    return load(place)


def describe_troubles(index: Index) -> str:
    """Returns what is wrong with the shards, one line per kind of problem, or "" if nothing is."""
    report, lines = index.manifest, []
    for kind, count in sorted(report["damages"].items()):
        named = [
            f"{d[0]} at byte {d[2]:,} ({d[3]:,} lost)" for d in report["damaged"] if d[1] == kind
        ]
        lines.append(f"{count} x {KINDS[kind]}: {', '.join(named[:SHOWN])}")
    for kind, count in sorted(report["troubles"].items()):
        lines.append(f"{count} {TROUBLES[kind]}: {', '.join(report['named'][kind][:SHOWN])}")
    lines += report["counts"]
    return "\n".join(lines)
