"""Annotates files of captions on many machines, by Apache Beam: tables in shards, and one of counts.

    bias-clip beam-annotate --input 'captions/*.parquet' --out runs/annotations --shards 10

The input is Parquet, or JSON with a record per line, with an id and a caption; other fields can be asked
by --column. Flags this tool does not know go to Beam: --runner and what that one needs, see
docs/balancing.md. For what one machine reads, and for images, `bias-clip annotate` does more.
Needs an environment of its own with `pip install 'bias_clip[beam]'`.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from bias_clip.cli.shared.choices import BOTH, MERGE_RULES
from bias_clip.cli.shared.flags import Parser, in_one_line, read_pair, read_pairs


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and runs the pipeline."""
    # What this parser does not know is Beam's.
    args, beam_flags = make_parser().parse_known_args(argv)
    in_one_line(lambda: work(args, beam_flags))


def work(args: argparse.Namespace, beam_flags: Sequence[str]) -> None:
    """Makes the plan and runs it.

    Raises:
      ValueError: a plan that does not go together, before Beam is asked for.
    """
    from bias_clip.curation.rows import plan_names

    plan = make_plan(args)
    # Raises for a plan that cannot be made, before Beam is imported and workers are asked for.
    plan_names(plan)
    run(args, plan, beam_flags)


def make_plan(args: argparse.Namespace) -> Any:
    """The plan of the flags.

    Raises: ValueError for a rule that cannot be read, and as `read_word_list`.
    """
    from bias_clip.curation.captions import Lists
    from bias_clip.curation.rows import Plan
    from bias_clip.curation.word_lists import read_word_list

    kinds = (args.attributes, args.labels, args.proxies)
    lists = Lists(*(tuple(map(read_word_list, kind)) for kind in kinds))
    return Plan(lists, tuple(map(column_rule, args.column)), both=args.both, rule=args.merge)


def column_rule(words: Sequence[str]) -> Any:
    """Reads man=gender yes=man no=woman,girl unknown=*

    Raises: ValueError for words that are not key=value, or not these keys.
    """
    from bias_clip.curation.rows import ColumnRule

    name, column = read_pair(words[0], flag="--column", example="man=gender")
    options = read_pairs(words[1:], flag="--column", example="yes=man")
    if not {"yes", "no"} <= set(options):
        raise ValueError(f"--column {' '.join(words)}: expected NAME=COLUMN yes=a,b no=c.")
    odd = sorted(set(options) - {"yes", "no", "unknown"})
    if odd:
        raise ValueError(f"--column has no {odd}; it has yes, no and unknown.")
    values = {key: tuple(value.split(",")) for key, value in options.items()}
    # "*": all values that are neither yes nor no.
    unknown = None if values.get("unknown") == ("*",) else values.get("unknown", ())
    return ColumnRule(name, column, values["yes"], values["no"], unknown)


def run(args: argparse.Namespace, plan: Any, beam_flags: Sequence[str]) -> None:
    """Runs the pipeline to its end.

    Raises: ModuleNotFoundError without Beam, ValueError for what `annotate_files` refuses.
    """
    import apache_beam as beam

    from bias_clip.curation.beam import annotate_files
    from bias_clip.curation.rows import Fields

    options = beam.options.pipeline_options.PipelineOptions(list(beam_flags))
    fields = Fields(args.id, tuple(args.captions))
    with beam.Pipeline(options=options) as pipeline:
        annotate_files(pipeline, args.input, args.out, plan, fields=fields, num_shards=args.shards)
    print(f"{args.out}: annotations in {args.shards} shards, and counts.parquet")


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--input", required=True, help="glob of .parquet files, or of lines of JSON")
    add("--out", required=True, help="folder to write, local or in a bucket")
    add("--shards", type=int, default=1, help="tables to write, about one per million rows")
    add("--id", default="id", help="field of the id")
    add("--captions", nargs="+", default=["caption"], help="fields of captions")
    several: dict[str, Any] = {"nargs": "*", "metavar": "LIST"}
    add("--attributes", default=["gender"], help="word lists", **several)
    add("--labels", default=["occupations"], help="word lists", **several)
    add("--proxies", default=["proxies"], help="word lists", **several)
    add("--both", choices=BOTH, default="unknown", help="captions of woman and man")
    add("--merge", choices=MERGE_RULES, default="first", help="who is believed")
    column: dict[str, Any] = {"nargs": "+", "action": "append", "default": []}
    add("--column", **column, metavar="WORD", help="NAME=COLUMN yes=a,b no=c unknown=d or *")
    return parser


if __name__ == "__main__":
    main()
