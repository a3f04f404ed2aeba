"""Writes the page of a run again, finished or not: loads no model, needs no accelerator.

bias-clip report --workdir runs/emoji
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bias_clip.cli.shared.flags import Parser, run_tool


def main(argv: Sequence[str] | None = None) -> None:
    """Writes `report.html` into the workdir and prints its path."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Writes the page.

    Raises:
      ValueError: the workdir holds no run.
    """
    from bias_clip.report.run_page import write_report

    print(write_report(args.workdir))


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--workdir",
        type=Path,
        required=True,
        metavar="DIR",
        help="of the run, as given to training",
    )
    return parser


if __name__ == "__main__":
    main()
