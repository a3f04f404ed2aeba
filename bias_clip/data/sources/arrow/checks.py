"""What is refused or said of Parquet and Arrow files before the first record is read."""

import logging
from collections.abc import Sequence

from bias_clip.data.sources.arrow.shards import Shard
from bias_clip.data.sources.tabular.places import OWN
from bias_clip.data.sources.tabular.rows import Layout, columns_of

# A random record reads its whole row group; above this many bytes a warning says how slow that is.
LARGE_GROUP = 2**22


def check_columns(layout: Layout, shards: Sequence[Shard]) -> None:
    """Raises ValueError for a file without the columns of images, captions or ids.

    All its rows would be bad records.
    """
    wanted = [("images", layout.image), ("captions", layout.captions)]
    wanted += [("ids", (name,)) for name in columns_of(layout.identity) if name not in OWN]
    for what, texts in wanted:
        columns = {name for text in texts for name in columns_of(text)}
        for shard in shards:
            # Without rows, as some writers leave their last shard, there is nothing to miss.
            if columns and sum(shard.groups) and not columns & set(shard.schema.names):
                raise ValueError(
                    f"{shard.path} has no column {sorted(columns)} for {what}, which other files have; it "
                    f"has {sorted(shard.schema.names)}. Name its column too, write the file again, or "
                    "leave it out."
                )


def warn_of_equal_ids(path: str, count: int, shown: Sequence[str]) -> None:
    """Says how many ids several rows share."""
    if count:
        logging.getLogger(__name__).warning(
            "%s: %d ids come twice or more, such as %s. Annotations and weights are joined by id and refuse "
            "them; identity='{table}/{row}' tells the rows apart.",
            path,
            count,
            shown,
        )


def warn_of_large_groups(shards: Sequence[Shard]) -> None:
    """Says so if a record at random reads megabytes, with the line that rewrites the files."""
    worst = max(shards, key=lambda shard: shard.most_bytes)
    if worst.most_bytes > LARGE_GROUP and max(worst.groups) > 1:
        rows = max(worst.groups)
        logging.getLogger(__name__).warning(
            "%s: a record at random reads its row group of up to %d rows, %.0f MB. Rewrite the files once: "
            "bias-clip regroup-parquet %s --out regrouped --rows %d",
            worst.path,
            rows,
            worst.most_bytes / 1e6,
            worst.path,
            max(1, min(rows, rows * LARGE_GROUP // worst.most_bytes // 4)),
        )
