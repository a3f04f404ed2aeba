"""Annotates a source: the attributes, labels and proxies of each example, as a table keyed by id.

    python tools/annotate.py --source emoji split=train variant=biased --out runs/annotations.parquet \
        --report runs/annotations --column man=gender yes=man no=woman unknown=*

From captions by word lists (ours, or .txt files of yours), from columns of the source, from the scores
of an image annotator, and from a trained model's zero-shot decision. What is given is asked first,
then scores, then the model, then the captions; `--merge` says who is believed. Every column is 1
(yes), 0 (no) or -1 (unknown). Interrupted, the same command goes on where it stopped.
"""

import argparse
import ast
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bias_clip.core.registry import argument_names, check_arguments, refuse_unknown
from bias_clip.core.write import write_file
from bias_clip.curation.annotate_source import KIND, Annotator, annotate_source
from bias_clip.curation.annotators import (
    by_captions,
    by_categories,
    by_column,
    by_scores,
    by_zero_shot,
)
from bias_clip.curation.captions import BOTH, MERGE_RULES, Lists, Names
from bias_clip.curation.word_lists import read_word_list
from bias_clip.data.sources import Source, make_source
from bias_clip.data.tables import open_table
from bias_clip.report import annotations as report
from bias_clip.report.annotations_page import render_annotations


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, writes the table and, if asked for, the report."""
    args = _parser().parse_args(argv)
    try:
        name, arguments = _tokens(args.source)
        source = make_source(name=name, **arguments)
        with tqdm(total=len(source), unit=" examples", disable=None) as bar:
            manifest = annotate_source(
                source,
                args.out,
                _annotators(args, source),
                about={"name": name, **arguments},
                rule=args.merge,
                shard_rows=args.shard_rows,
                max_broken=args.max_broken,
                on_rows=bar.update,
            )
        print(f"{args.out}: {manifest['rows']:,} examples, {len(manifest['columns']) - 1} columns")
        if args.report:
            print(write_report(args.out, args.report))
    except ValueError as error:
        sys.exit(f"error: {error}")


def write_report(path: Path, folder: Path) -> str:
    """Writes statistics.json, statistics.txt and annotations.html; returns the text.

    Raises: ValueError if the table is unfinished or was changed.
    """
    manifest, batches = open_table(path, kind=KIND, rows=16384)
    names = Names(*(tuple(manifest[kind]) for kind in Names._fields))
    counts = functools.reduce(report.add, (report.count(columns, names) for columns in batches))
    found = report.statistics(counts, names)
    text = report.to_text(found)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "statistics.json", json.dumps(found, indent=1))
    write_file(folder / "statistics.txt", text + "\n")
    write_file(folder / "annotations.html", render_annotations(found))
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = functools.partial(parser.add_argument, metavar="WORD")
    several: dict[str, Any] = {"nargs": "+", "action": "append", "default": []}
    add("--source", nargs="+", required=True, help="its name, then key=value of its arguments")
    parser.add_argument("--out", type=Path, required=True, help="the .parquet file to write")
    add("--attributes", nargs="*", default=["gender"], help="word lists; none: not by captions")
    add("--labels", nargs="*", default=["occupations"], help="word lists")
    add("--proxies", nargs="*", default=["proxies"], help="word lists")
    parser.add_argument("--both", choices=BOTH, default="unknown", help="captions of woman and man")
    add("--column", **several, help="NAME=COLUMN yes=a,b no=c unknown=d or * [as=label]")
    add("--categories", **several, help="COLUMN values=a,b,c [as=attribute]: a column each")
    add("--scores", **several, help="FILE NAME=COLUMN threshold=0.5 [band=0.1 key=id as= missing=]")
    add("--zero-shot", **several, help="RUN prompts=FILE [margin=0.01 step=N as=]; a word list")
    parser.add_argument("--merge", choices=list(MERGE_RULES), default="first")
    parser.add_argument("--shard-rows", type=_positive, default=65536, help="in memory at a time")
    parser.add_argument("--max-broken", type=int, default=0, help="records that may be unreadable")
    parser.add_argument("--report", type=Path, help="folder for statistics and a page with charts")
    return parser


def _annotators(args: argparse.Namespace, source: Source) -> list[Annotator]:
    """All that was asked for, what is believed first coming first."""
    made = [_column(words, source) for words in args.column]
    made += [_categories(words, source) for words in args.categories]
    made += [_scores(words) for words in args.scores]
    made += [_zero_shot(words, source) for words in args.zero_shot]
    kinds = (args.attributes, args.labels, args.proxies)
    lists = Lists(*(tuple(map(read_word_list, kind)) for kind in kinds))
    return [*made, by_captions(lists, both=args.both)] if any(lists) else made


def _call(
    option: str, make: Callable[..., Annotator], *given: Any, options: dict[str, Any]
) -> Annotator:
    """Calls with the words of an option, whose misspelt ones are named."""
    bound = make.keywords if isinstance(make, functools.partial) else ()
    names = [name for name in argument_names(make) if name not in bound]
    valid = {"as" if name == "kind" else name: name for name in names}
    refuse_unknown(option, options, valid)
    arguments = {valid[name]: value for name, value in options.items()}
    check_arguments(option, make, arguments, given=bound)
    return make(*given, **arguments)


def _tokens(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The first word, and key=value of the others."""
    options: dict[str, Any] = {}
    for word in words[1:]:
        key, value = _pair(word)
        if key in options:
            raise ValueError(f"{key!r} is given twice: {list(words)}.")
        options[key] = _literal(value)
    return words[0], options


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not (key and equals):
        raise ValueError(f"got {word!r}, expected key=value, such as split=train or man=gender.")
    return key, value


def _column(words: Sequence[str], source: Source) -> Annotator:
    """--column man=gender yes=man no=woman,girl unknown=*"""
    options: dict[str, Any] = dict(map(_pair, words[1:]))
    for key in {"yes", "no", "unknown"} & set(options):
        options[key] = None if (key, options[key]) == ("unknown", "*") else options[key].split(",")
    return _call("--column", by_column, source, *_pair(words[0]), options=options)


def _categories(words: Sequence[str], source: Source) -> Annotator:
    """--categories concept values=cook,pilot as=label"""
    options: dict[str, Any] = dict(map(_pair, words[1:]))
    if "values" in options:
        options["values"] = options["values"].split(",")
    return _call("--categories", by_categories, source, words[0], options=options)


def _scores(words: Sequence[str]) -> Annotator:
    """--scores faces.parquet man=male_score threshold=0.5 band=0.1"""
    path, options = _tokens(words)
    rules = {*argument_names(by_scores), "as"}
    columns = {name: str(options.pop(name)) for name in list(options) if name not in rules}
    if not columns:
        raise ValueError(f"--scores {path}: expected NAME=COLUMN, such as man=male_score.")
    return _call("--scores", by_scores, path, columns, options=options)


def _zero_shot(words: Sequence[str], source: Source) -> Annotator:
    """--zero-shot runs/emoji prompts=prompts.txt margin=0.01 step=1000"""
    workdir, options = _tokens(words)
    if "prompts" not in options:
        raise ValueError(f"--zero-shot {workdir}: expected prompts=FILE, a word list of prompts.")
    prompts, step = read_word_list(options.pop("prompts")), options.pop("step", None)
    found, new_encode = _load_encoder(Path(workdir), step)
    return _call(
        "--zero-shot",
        functools.partial(
            by_zero_shot,
            embed_images=lambda rows: new_encode().images(rows),  # one each, as it keeps them
            embed_texts=new_encode().texts,
            about={"run": workdir, "step": found},
        ),
        source,
        prompts,
        options=options,
    )


def _load_encoder(workdir: Path, step: int | None) -> tuple[int, Callable[[], Any]]:
    """The step of a run's checkpoint, and what makes an `Encode` of it."""
    from bias_clip.evals.concat import concat_encode
    from bias_clip.train.workdir.load_run import as_stage, load_trained

    trained = load_trained(workdir, step)
    size = trained.config.evaluation.batch_size
    stage = as_stage(trained, size)
    return trained.step, lambda: concat_encode([stage], batch_size=size)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, expected at least 1")
    return value


if __name__ == "__main__":
    main()
