"""Annotates a source: the attributes, labels and proxies of each example, as a table keyed by id.

    bias-clip annotate --source emoji split=train variant=biased --out runs/annotations.parquet \\
        --report runs/annotations --column man=gender yes=man no=woman unknown=*

From captions by word lists (ours, or .txt files of yours), from columns of the source, from the scores
of an image annotator, and from a trained model's zero-shot decision. What is given is asked first,
then scores, then the model, then the captions; `--merge` says who is believed. Every column is 1
(yes), 0 (no) or -1 (unknown). Interrupted, the same command goes on where it stopped.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bias_clip.cli.shared.choices import BOTH, MERGE_RULES
from bias_clip.cli.shared.flags import Parser, add_source, read_call, run_tool
from bias_clip.core.json_object import to_json
from bias_clip.core.write import write_file


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, writes the table and, if asked for, the report."""
    run_tool(make_parser(), annotate, argv)


def annotate(args: argparse.Namespace) -> None:
    """Writes the table and the report.

    Raises:
      ValueError: what an option asks for is not there, or does not go together.
    """
    from tqdm import tqdm

    from bias_clip.cli.shared.annotate_options import make_annotators
    from bias_clip.curation.annotate_source import annotate_source
    from bias_clip.data.sources import make_source

    name, arguments = read_call(args.source, flag="--source")
    source = make_source(name=name, **arguments)
    with tqdm(total=len(source), unit=" examples", disable=None) as bar:
        manifest = annotate_source(
            source,
            args.out,
            make_annotators(args, source),
            about={"name": name, **arguments},
            rule=args.merge,
            shard_rows=args.shard_rows,
            max_broken=args.max_broken,
            on_rows=bar.update,
        )
    # Minus the column of ids.
    print(f"{args.out}: {manifest['rows']:,} examples, {len(manifest['columns']) - 1} columns")
    if args.report:
        print(write_report(args.out, args.report))


def write_report(path: Path, folder: Path) -> str:
    """Writes statistics.json, statistics.txt and annotations.html; returns the text.

    Raises: ValueError if the table is unfinished or was changed.
    """
    from bias_clip.curation.annotate_source import KIND
    from bias_clip.curation.captions import Names
    from bias_clip.data.tables import open_table
    from bias_clip.report import annotations as report
    from bias_clip.report.annotations_page import render_annotations

    # Small chunks: counting makes three float64 per cell of a chunk.
    manifest, batches = open_table(path, kind=KIND, rows=16384)
    names = Names(*(tuple(manifest[kind]) for kind in Names._fields))
    counts = functools.reduce(report.add, (report.count(columns, names) for columns in batches))
    found = report.statistics(counts, names)
    text = report.to_text(found)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "statistics.json", to_json(found, indent=1))
    write_file(folder / "statistics.txt", text + "\n")
    write_file(folder / "annotations.html", render_annotations(found))
    return text


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = functools.partial(parser.add_argument, metavar="WORD")
    several: dict[str, Any] = {"nargs": "+", "action": "append", "default": []}
    add_source(parser)
    add("--out", metavar="FILE", type=Path, required=True, help="the .parquet file to write")
    add("--attributes", nargs="*", default=["gender"], help="word lists; none: not by captions")
    add("--labels", nargs="*", default=["occupations"], help="word lists")
    add("--proxies", nargs="*", default=["proxies"], help="word lists")
    parser.add_argument("--both", choices=BOTH, default="unknown", help="captions of woman and man")
    add("--column", **several, help="NAME=COLUMN yes=a,b no=c unknown=d or * [as=label]")
    add("--categories", **several, help="COLUMN values=a,b,c [as=attribute]: a column each")
    add("--scores", **several, help="FILE NAME=COLUMN threshold=0.5 [band=0.1 key=id as= missing=]")
    add(
        "--zero-shot",
        **several,
        help="RUN or CHECKPOINT, prompts=FILE, a word list [margin=0.01 step=N as= tokenizer=FILE]",
    )
    parser.add_argument("--merge", choices=MERGE_RULES, default="first", help="who is believed")
    add("--shard-rows", metavar="N", type=_positive, default=65536, help="in memory at a time")
    add("--max-broken", metavar="N", type=int, default=0, help="records that may be unreadable")
    add(
        "--report", metavar="FOLDER", type=Path, help="folder for statistics and a page with charts"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, expected at least 1")
    return value


if __name__ == "__main__":
    main()
