"""Clusters the embeddings of a data set: the cell of each example, for multistage contrastive learning.

    bias-clip cluster --embeddings runs/x/embeddings --k 10 --modality image --seed 0 \\
        --out runs/x/cells.parquet

k-means over all rows and all devices of this machine. Up to --in-memory-rows they are held by the
devices; more are read again in each pass, and start from the centres of a sample. `bias-clip embed`
writes the embeddings; the table has a column `cluster`, its manifest the centres' file, and --init
continues from such a file.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bias_clip.cli.shared.choices import EMPTY, MODALITIES
from bias_clip.cli.shared.flags import Parser, run_tool


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, clusters, writes the table, and prints the report."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Clusters, writes, prints.

    Raises:
      ValueError: embeddings that are not there or not finite, or flags that do not fit them.
    """
    from bias_clip.cli.shared.cluster_rows import cluster, to_text, write_cells
    from bias_clip.data.tables.embeddings import open_embeddings

    # Opening compares the sums of all shards, so that hours of clustering are not spent on a cut file.
    embeddings = open_embeddings(args.embeddings)
    found = cluster(embeddings, args)
    write_cells(args.out, embeddings, found, args)
    print(to_text(found, args.modality))
    print(f"{args.out}: {len(found.labels):,} cells")


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--embeddings", type=Path, required=True, help="the folder that embed wrote")
    add("--out", type=Path, required=True, help="the .parquet file to write: id and cluster")
    add("--k", type=int, required=True, help="number of clusters")
    add("--modality", choices=MODALITIES, default="image", help="what is clustered")
    add("--seed", type=int, default=0, help="of the draws of first centres")
    add("--n-init", type=int, default=1, help="starts, of which the best is kept")
    add("--iterations", type=int, default=300, help="of a start, at most")
    add("--tol", type=float, default=1e-4, help="rest: squared shift over variance; 0: none moves")
    add("--empty", choices=EMPTY, default="farthest", help="where an empty cluster goes")
    add("--spherical", action="store_true", help="bring centres to unit length")
    add("--init", type=Path, help="a .centres.npy file to start from")
    add("--in-memory-rows", type=int, default=1_000_000, help="more than these are streamed")
    add("--chunk-rows", type=int, default=65_536, help="rows read at a time in a stream")
    add("--sample-rows", type=int, default=200_000, help="from which a stream's start is found")
    return parser


if __name__ == "__main__":
    main()
