"""Weights for other trainers: ids of kept rows, copies per row, and DataComp's subset files."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from bias_clip.core.write import write_file
from bias_clip.data.bad_records import file_fault
from bias_clip.data.tables import KEY, SHOWN, write_table

KIND, COPIES = "copies", "copies"  # of the table of copies per row, and its column
SUBSET = np.dtype("u8,u8")  # what DataComp's resharder reads: the two halves of a uid
_UID = re.compile(r"[0-9a-fA-F]{32}")


def write_ids(path: str | Path, ids: np.ndarray, copies: Int64[np.ndarray, " n"]) -> int:
    """Writes the ids of the kept rows, one per line, in their order; a copy is a line more.

    Raises: ValueError for an id with a line break.
    """
    # `splitlines` knows all line breaks of Unicode, as readers of the file may.
    broken = [name for name in ids.tolist() if name.splitlines() != [name]]
    if broken:
        raise ValueError(f"ids {broken[:SHOWN]} contain line breaks; hand on a table of copies.")
    kept = np.repeat(ids, copies)
    write_file(Path(path), "".join(f"{name}\n" for name in kept.tolist()))
    return len(kept)


def write_copies(path: str | Path, ids: np.ndarray, copies: Int64[np.ndarray, " n"]) -> int:
    """Writes a table of ids and their copies, in the order of the source, for samplers by row."""
    write_table(path, {KEY: ids, COPIES: copies}, {"kind": KIND})
    return int(copies.sum())


def write_subset(path: str | Path, uids: Sequence[str], copies: Int64[np.ndarray, " n"]) -> int:
    """Writes a DataComp subset: pairs of the unsigned 64-bit halves of each kept uid, sorted.

    The resharder searches by bisection: of an unsorted file it loses samples and writes others in their
    place, without an error. A uid that stands k times is written k times, so copies are weights.

    Raises: ValueError for what is not a uid of 32 hexadecimal digits.
    """
    wrong = [uid for uid in uids if not _UID.fullmatch(str(uid))]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(uids)} are not uids of 32 hexadecimal digits, such as {wrong[:SHOWN]}; "
            "name the attribute that holds them by --uid."
        )
    pairs = np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], SUBSET)
    # Order by the high half, then by the low one: that of the 128-bit numbers.
    kept = np.sort(np.repeat(pairs, copies), order=["f0", "f1"])
    out = io.BytesIO()
    np.save(out, kept)
    write_file(Path(path), out.getvalue())
    return len(kept)


def read_subset(path: str | Path) -> np.ndarray:
    """Returns the uids of a DataComp subset as text, with their repeats.

    Raises: ValueError for another type, or a file that is not sorted.
    """
    with file_fault(path):
        pairs = np.load(path, allow_pickle=False)
    if pairs.dtype != SUBSET or pairs.ndim != 1:
        raise ValueError(
            f"{path} is {pairs.dtype}{list(pairs.shape)}, expected a list of {SUBSET}."
        )
    if (pairs != np.sort(pairs, order=["f0", "f1"])).any():
        raise ValueError(
            f"{path} is not sorted, so DataComp's resharder would lose samples silently; sort it by "
            "f0, then f1."
        )
    return np.array([f"{a:016x}{b:016x}" for a, b in pairs.tolist()], "<U32")
