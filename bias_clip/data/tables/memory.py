"""Whether a table of ids fits in memory: said before the system ends the process without a word."""

import logging
from pathlib import Path

import pyarrow.parquet as pq

# Times that a table's ids are in memory when training joins them, measured at 1e6 and 1e7 rows: the ids of
# the source, those of the table in parts and whole, Arrow's copies and its index of them.
_COPIES = 6
_SYSTEM = Path("/proc/meminfo")  # of Linux; elsewhere nothing is said
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def warn_of_memory(path: str | Path, ids: str) -> None:
    """Says in the log if reading a table and joining it by its column of ids takes more memory than is free."""
    needed, free = joined_bytes(path, ids), free_bytes()
    if free is not None and needed > free:
        logging.getLogger(__name__).warning(
            "%s: joining its rows by id takes about %.1f GB of memory, and %.1f GB are free: the system may end "
            "this process. Write its columns by record number once, on a machine with more memory, with "
            "bias-clip columns, and give their folder in its place.",
            path,
            needed / 1e9,
            free / 1e9,
        )


def joined_bytes(path: str | Path, ids: str) -> int:
    """About the most memory that reading a table and joining it takes, from the sizes in its footer."""
    with pq.ParquetFile(path) as file:
        about = file.metadata
        names = [about.schema.column(i).path for i in range(about.num_columns)]
        chunks = [about.row_group(g).column(names.index(ids)) for g in range(about.num_row_groups)]
    # A text is stored with 4 bytes of its length; NumPy takes 4 bytes per character.
    characters = sum(chunk.total_uncompressed_size for chunk in chunks) - 4 * about.num_rows
    return _COPIES * 4 * max(0, characters) + 8 * len(names) * about.num_rows


def free_bytes() -> int | None:
    """Memory that this process can take: of the machine, or of its container if that has less."""
    if not _SYSTEM.is_file():
        return None
    lines = dict(line.split(":", 1) for line in _SYSTEM.read_text().splitlines())
    limits = [Path(limit).read_text().strip() for limit in _LIMITS if Path(limit).is_file()]
    free = int(lines["MemAvailable"].split()[0]) * 1024
    return min([free, *(int(limit) for limit in limits if limit.isdecimal())])
