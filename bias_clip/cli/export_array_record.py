"""Writes a source, such as a split of the embedded data, to one ArrayRecord file.

    python tools/export_array_record.py --out=style.array_record name=emoji split=style

Pictures are stored as PNG, without loss. Train on the file with
`config.data.source = dict(name="array_record", path="style.array_record")`.
"""

import argparse
import ast
from pathlib import Path
from typing import Any

from bias_clip.data.sources import make_source
from bias_clip.data.sources.array_record import array_record_source, write_array_record


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, writes the file, and reads it back once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", required=True, help="the file to write")
    parser.add_argument("source", nargs="+", metavar="key=value", help="arguments of make_source")
    args = parser.parse_args(argv)
    try:
        source = make_source(**dict(_argument(text) for text in args.source))
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    count = write_array_record(source, args.out)
    written = array_record_source(path=args.out)
    differ = [i for i in range(count) if written[i]["id"] != source[i]["id"]]
    if len(written) != count or differ:
        raise SystemExit(f"{args.out} does not read back: {len(written)} of {count} records.")
    print(f"{args.out}: {count} records, {Path(args.out).stat().st_size / 1e6:.1f} MB")


def _argument(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"got {text!r}, expected key=value, such as split=train.")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


if __name__ == "__main__":
    main()
