"""Estimates the priors of the debiased losses: the chance that another example is of the same class.

    bias-clip priors --labels runs/annotations.parquet doctor nurse --out runs/priors.parquet
    bias-clip priors --clusters runs/cells.parquet --out runs/priors.parquet
    bias-clip priors --neighbours runs/z --threshold 0.9 --out runs/priors.parquet
    bias-clip priors --copies runs/quality.parquet --out runs/priors.parquet

Train with `config.data.columns = dict(prior=dict(table="runs/priors.parquet"))`. What each estimator
misses is in docs/filters.md. How the authors of sample-specific debiasing estimate priors is not known to us.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bias_clip.cli.shared.choices import MODALITIES
from bias_clip.cli.shared.flags import Parser, run_tool


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, writes the table, and prints its quantiles."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Estimates, writes, prints.

    Raises:
      ValueError: none or several estimators, or what they refuse.
    """
    from bias_clip.curation import priors
    from bias_clip.data.tables import file_sha256
    from bias_clip.data.tables.embeddings import open_embeddings

    given = [n for n in ("labels", "clusters", "neighbours", "copies") if getattr(args, n)]
    if len(given) != 1:
        raise ValueError(
            f"got {given}; expected one of --labels, --clusters, --neighbours, --copies."
        )
    (which,) = given
    about: dict = {"estimator": which, "most": args.most}
    if which == "neighbours":
        if args.threshold is None:
            raise ValueError("--neighbours needs --threshold, a cosine such as 0.9.")
        rule = {"threshold": args.threshold, "modality": args.modality}
        rule |= {"sample": args.sample, "seed": args.seed}
        found = priors.neighbour_priors(open_embeddings(args.neighbours), **rule, most=args.most)
        about |= {**rule, "path": str(args.neighbours)}
    elif which == "labels":
        path, names = args.labels[0], args.labels[1:]
        found = priors.label_priors(path, names, most=args.most)
        about |= {"labels": names, "sha256": file_sha256(path)}
    elif which == "clusters":
        found = priors.cluster_priors(args.clusters, most=args.most)
        about |= {"sha256": file_sha256(args.clusters)}
    else:
        found = priors.copy_priors(args.copies, args.column, most=args.most)
        about |= {"column": args.column, "sha256": file_sha256(args.copies)}
    priors.write_priors(args.out, found, about)
    numbers = priors.describe_priors(found[priors.PRIOR])
    print(", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    print(f"{args.out}: {len(found[priors.PRIOR]):,} priors, by {which}")


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add(
        "--labels",
        nargs="+",
        default=[],
        metavar="WORD",
        help="TABLE COLUMN ...: annotations, or another table; the class is all labels together",
    )
    add("--clusters", type=Path, metavar="FILE", help="the table that cluster wrote")
    add("--neighbours", type=Path, metavar="DIR", help="the folder that embed wrote")
    add("--threshold", type=float, help="cosine from which on two texts are of one class")
    add("--modality", choices=MODALITIES, default="text", help="of the neighbours")
    add("--sample", type=int, default=4096, help="examples that each one is compared with")
    add("--seed", type=int, default=0, help="of that sample")
    add("--copies", type=Path, metavar="FILE", help="the table that measure wrote")
    add("--column", default="near_copies", help="of --copies; or caption_copies, image_copies")
    add("--most", type=float, default=0.5, help="largest prior; the losses divide by 1 - prior")
    add("--out", type=Path, required=True, metavar="FILE", help="the .parquet file to write")
    return parser


if __name__ == "__main__":
    main()
