"""Writes a source, such as a split of the embedded data, to one ArrayRecord file.

    bias-clip export-array-record --source emoji split=style --out style.array_record

Images are stored as PNG, without loss. Train on the file with
`config.data.source = dict(name="array_record", path="style.array_record")`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bias_clip.cli.shared.flags import Parser, add_source, read_call, run_tool


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, writes the file, and reads it back once."""
    run_tool(make_parser(), work, argv, errors=(RuntimeError,))


def work(args: argparse.Namespace) -> None:
    """Writes the file and compares the ids with those of the source.

    Raises:
      ValueError: an unknown source, or arguments that it does not have.
      RuntimeError: the file does not read back as it was written.
    """
    from bias_clip.data.sources import make_source
    from bias_clip.data.sources.array_record import array_record_source, write_array_record

    name, arguments = read_call(args.source, flag="--source")
    source = make_source(name=name, **arguments)
    count = write_array_record(source, args.out)
    written = array_record_source(path=args.out)
    # Ids show that every record is there and in its place, without decoding images.
    differ = [i for i in range(count) if written[i]["id"] != source[i]["id"]]
    if len(written) != count or differ:
        raise RuntimeError(f"{args.out} does not read back: {len(written)} of {count} records.")
    print(f"{args.out}: {count} records, {Path(args.out).stat().st_size / 1e6:.1f} MB")


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add_source(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    return parser


if __name__ == "__main__":
    main()
