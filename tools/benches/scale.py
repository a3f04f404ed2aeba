"""Measures start-up and memory at many records: from columns that are mapped, and from a table that is read.

    python -m tools.bench scale --rows 1000000 10000000 100000000

The source makes its records when they are asked for, so only the machinery of orders, weights and columns is
measured. Each size is a process of its own. "own" is memory of the process, "peak" the most that it had on the
way, "mapped" what it touched of the files, which the system takes back when it needs it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.core.hashing import array_sha256
from bias_clip.data.records import LazyColumns, Record, text_array
from bias_clip.data.tables import write_table
from bias_clip.data.tables.mapped import ID_HASH, MANIFEST, hash_ids, write_mapped

BATCH = 256


class Generated:
    """Records that are made when they are read; ids are numbers of ten digits."""

    def __init__(self, rows: int):
        self._rows = rows
        self._image = np.zeros((8, 8, 3), np.uint8)

    def __len__(self) -> int:
        return self._rows

    def names(self, index: int) -> dict[str, str]:
        """Returns the id without making the record."""
        return {"id": f"{index:010d}"}

    def __getitem__(self, index: int) -> Record:
        return {**self.names(index), "image": self._image, "captions": ("a",)}

    @property
    def columns(self) -> LazyColumns:
        """All ids, made when they are asked for."""
        return LazyColumns(["id"], lambda _: text_array([f"{i:010d}" for i in range(self._rows)]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this bench's arguments."""
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6], help="records")
    parser.add_argument("--table", type=int, default=10**6, help="most records read from a table")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)


def bench(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints a line per size and form, and returns the numbers."""
    if args.child:
        print(json.dumps(start(int(args.child[0]), args.child[1])))
        return []
    record = [_mixture()]
    print(f"a mixture of five sources of 1e9 records: planned in {record[0]['seconds']:.3f} s")
    print(
        f"{'records':>14}  {'from':<8}{'seconds':>9}{'own MB':>9}{'peak MB':>9}{'mapped MB':>11}"
        f"{'disk, B per record':>20}"
    )
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            forms = {"columns": _write_columns(Path(folder), rows)}
            if rows <= args.table:
                forms["table"] = _write_table(Path(folder), rows)
            for form, (path, size) in forms.items():
                command = [sys.executable, "-m", "tools.bench", "scale", "--child", str(rows), path]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout.strip().splitlines()[-1])
                record.append({"rows": rows, "form": form, **found, "bytes": size / rows})
                print(
                    f"{rows:>14,}  {form:<8}{found['seconds']:>9.2f}{found['own'] / 1e6:>9.1f}"
                    f"{found['peak'] / 1e6:>9.1f}{found['mapped'] / 1e6:>11.1f}{size / rows:>20.2f}",
                    flush=True,
                )
    return record


def start(rows: int, path: str) -> dict[str, float]:
    """Time and memory from nothing to the first batch of a thinned run with weights and labels."""
    from bias_clip.data.stream.balanced import make_plan
    from bias_clip.data.stream.pipeline import make_train_iterator

    before, begin = _memory(), time.perf_counter()
    source = Generated(rows)
    plan = make_plan(source, table=path, use="thin", seed=0)
    given: dict[str, Any] = {"batch_size": BATCH, "seed": 0, "num_threads": 0}
    given |= {"image_fn": lambda image, rng: image, "text_fn": lambda text: np.zeros(4, np.int32)}
    with make_train_iterator(source, plan=plan, **given) as batches:
        next(batches)
    if (Path(path) / MANIFEST).is_file():  # and the labels of a plain run
        columns = {"labels": {"table": path, "column": "label"}}
        with make_train_iterator(source, columns=columns, **given) as batches:
            next(batches)
    after = _memory()
    # The peak is of all memory of the process, so from its size before; the others are what was added.
    peak = after.pop("peak") - before.pop("now")
    seconds = time.perf_counter() - begin
    grown = {name: after[name] - before[name] for name in ("own", "mapped")}
    return {"seconds": seconds, **grown, "peak": peak}


def _write_columns(folder: Path, rows: int) -> tuple[str, int]:
    rng = np.random.default_rng(0)
    kept = np.flatnonzero(rng.random(rows, np.float32) < 0.9).astype(np.uint32)
    probes = {round(x) for x in np.linspace(0, rows - 1, 16).tolist()}
    hashes = np.zeros(
        rows, np.uint64
    )  # only those that a run compares: hashing 1e8 ids takes minutes
    for row in probes:
        hashes[row] = hash_ids([f"{row:010d}"])[0]
    arrays: dict[str, np.ndarray] = {
        ID_HASH: hashes,
        "weight": np.full(rows, 0.9, np.float32),
        "rows": kept,
        "label": (np.arange(rows, dtype=np.uint32) % 100).astype(np.int8),
    }
    about = {"draw": {"seed": 0, "draw": None, "sha256": ""}, "weights_sha256": ""}
    path = folder / "columns"
    write_mapped(path, arrays, about, records=rows)
    return str(path), sum(file.stat().st_size for file in path.iterdir())


def _write_table(folder: Path, rows: int) -> tuple[str, int]:
    ids = Generated(rows).columns["id"]
    path = folder / "weights.parquet"
    write_table(path, {"id": ids, "weight": np.full(rows, 0.9)}, {"kind": "weights"})
    return str(path), path.stat().st_size


def _mixture() -> dict[str, Any]:
    from bias_clip.data.sources.mixture import Mixture

    sources = {f"s{i}": Generated(10**9) for i in range(5)}
    begin = time.perf_counter()
    mixed = Mixture(sources, {f"s{i}": 1.0 + i for i in range(5)})  # type: ignore[arg-type]
    found = [mixed[round(x)]["id"] for x in np.linspace(0, len(mixed) - 1, 100).tolist()]
    return {
        "form": "mixture",
        "rows": len(mixed),
        "seconds": time.perf_counter() - begin,
        "sha256": array_sha256(np.array([len(x) for x in found])),
    }


def _memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if " kB" in line}
    # The kernel counts the peak with mapped files; what a start maps is small beside it.
    named = {"own": "RssAnon", "mapped": "RssFile", "now": "VmRSS", "peak": "VmHWM"}
    return {name: sizes[field] for name, field in named.items()}
