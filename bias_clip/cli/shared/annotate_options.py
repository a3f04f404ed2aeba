"""The options of `annotate` that name annotators, such as --column man=gender yes=man, as annotators."""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

from bias_clip.cli.shared.flags import print_notes, read_call, read_pair, read_pairs
from bias_clip.core.registry import argument_names, check_arguments, refuse_unknown
from bias_clip.curation.annotate_source import Annotator
from bias_clip.curation.annotators import (
    by_captions,
    by_categories,
    by_column,
    by_scores,
    by_zero_shot,
)
from bias_clip.curation.captions import Lists
from bias_clip.curation.word_lists import read_word_list
from bias_clip.data.sources import Source


def make_annotators(args: argparse.Namespace, source: Source) -> list[Annotator]:
    """All that the command line asked for, what is believed first coming first.

    Raises:
      ValueError: an option that cannot be read, or what the annotators refuse.
    """
    # The order is that of trust, which the rule "first" follows: given values, scores, a model, captions.
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
    # What a partial already has is not the user's to set.
    bound = make.keywords if isinstance(make, functools.partial) else ()
    names = [name for name in argument_names(make) if name not in bound]
    # "as" reads better on a command line, and cannot be a name in Python.
    valid = {"as" if name == "kind" else name: name for name in names}
    refuse_unknown(option, options, valid)
    arguments = {valid[name]: value for name, value in options.items()}
    check_arguments(option, make, arguments, given=bound)
    return make(*given, **arguments)


def _column(words: Sequence[str], source: Source) -> Annotator:
    """--column man=gender yes=man no=woman,girl unknown=*"""
    options: dict[str, Any] = dict(read_pairs(words[1:], flag="--column"))
    for key in {"yes", "no", "unknown"} & set(options):
        options[key] = None if (key, options[key]) == ("unknown", "*") else options[key].split(",")
    return _call(
        "--column",
        by_column,
        source,
        *read_pair(words[0], flag="--column", example="man=gender"),
        options=options,
    )


def _categories(words: Sequence[str], source: Source) -> Annotator:
    """--categories concept values=cook,pilot as=label"""
    options: dict[str, Any] = dict(read_pairs(words[1:], flag="--categories"))
    if "values" in options:
        options["values"] = options["values"].split(",")
    return _call("--categories", by_categories, source, words[0], options=options)


def _scores(words: Sequence[str]) -> Annotator:
    """--scores faces.parquet man=male_score threshold=0.5 band=0.1"""
    path, options = read_call(words, flag="--scores")
    # Words that are no rule name columns, such as man=male_score.
    rules = {*argument_names(by_scores), "as"}
    columns = {name: str(options.pop(name)) for name in list(options) if name not in rules}
    if not columns:
        raise ValueError(f"--scores {path}: expected NAME=COLUMN, such as man=male_score.")
    return _call("--scores", by_scores, path, columns, options=options)


def _zero_shot(words: Sequence[str], source: Source) -> Annotator:
    """--zero-shot runs/emoji prompts=prompts.txt margin=0.01 step=1000; or a published checkpoint"""
    workdir, options = read_call(words, flag="--zero-shot")
    if "prompts" not in options:
        raise ValueError(f"--zero-shot {workdir}: expected prompts=FILE, a word list of prompts.")
    prompts, step = read_word_list(options.pop("prompts")), options.pop("step", None)
    # Keys with a dot are of the model, as in --set; the others are the annotator's.
    changed = [key for key in options if "." in key or key in ("tokenizer", "images")]
    changes = {key: options.pop(key) for key in changed}
    found, new_encode = _load_encoder(workdir, step, changes)
    return _call(
        "--zero-shot",
        functools.partial(
            by_zero_shot,
            embed_images=lambda rows: new_encode().images(rows),  # one each, as it keeps them
            embed_texts=new_encode().texts,
            about={"run": workdir, "step": found, **({"changes": changes} if changes else {})},
        ),
        source,
        prompts,
        options=options,
    )


def _load_encoder(
    workdir: str, step: int | None, changes: dict[str, Any]
) -> tuple[int, Callable[[], Any]]:
    """The step of a run, or 0 of a published checkpoint, and what makes an `Encode` of it."""
    from bias_clip.evals.concat import concat_encode
    from bias_clip.train.workdir.load_model import load_model
    from bias_clip.train.workdir.load_run import as_stage

    trained = load_model(workdir, step, changes=changes)
    print_notes([trained])
    size = trained.config.evaluation.batch_size
    stage = as_stage(trained, size)
    return trained.step, lambda: concat_encode([stage], batch_size=size)
