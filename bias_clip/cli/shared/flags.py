"""The grammar that all tools share: parsers, key=value, --set, --source, --json, one-line errors.

Nothing here imports more than the standard library, so that `--help` answers at once. A tool has
`make_parser()`, and `main(argv)` that is one call of `run_tool`. What needs JAX or the data is
imported by the work, after the command line has been read.
"""

import argparse
import ast
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bias_clip.core.extras import what_is_missing
from bias_clip.core.json_object import to_json
from bias_clip.core.write import write_file

_JSON_WORDS = {"true": "True", "false": "False", "null": "None"}


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors are one line, and which guesses no option from its beginning."""

    def __init__(self, **arguments: Any) -> None:
        # Abbreviations are off: an option that is added later could change what an old line means.
        super().__init__(**{"formatter_class": _Formatter, "allow_abbrev": False, **arguments})

    def error(self, message: str) -> NoReturn:
        """Ends with status 2."""
        # argparse's own words do not say that "-" is stdout.
        if message == "argument --json: expected one argument":
            message = "--json needs a FILE to write, or - for stdout"
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves the description as it is, and says each default that is not empty."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        # A switch that is off, or nothing, is not worth a line of help.
        if default is None or default is False or default is argparse.SUPPRESS:
            return action.help
        if isinstance(default, list | tuple | str) and not any(default):
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{action.help} (default: {shown.replace('%', '%%')})"


def run_tool(
    parser: Parser,
    work: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
    *,
    errors: tuple[type[Exception], ...] = (),
) -> None:
    """Parses the command line, does the work, and ends with its status unless that is 0.

    Args:
      parser: of the tool.
      work: gets the arguments; returns an exit status, or None for 0.
      argv: the words after the command; default: of this process.
      errors: what else, beside bad input and files, is told in one line and without a stack.
    """
    args = parser.parse_args(argv)
    if status := in_one_line(lambda: work(args), errors=errors):
        sys.exit(status)


def in_one_line(
    work: Callable[[], int | None], *, errors: tuple[type[Exception], ...] = ()
) -> int | None:
    """Calls `work`; bad input, a file and a missing extra end with status 1 and one line."""
    try:
        return work()
    except ModuleNotFoundError as error:
        if (missing := what_is_missing(error)) is None:
            raise
        sys.exit(f"error: {missing}")
    # One line, because messages are written over several in the code.
    except _expected(errors) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def _expected(errors: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    """Looked up when something is raised: whoever raised NotSavedError has imported its module."""
    storage = sys.modules.get("bias_clip.core.storage")
    saving = () if storage is None else (storage.NotSavedError,)
    return (ValueError, OSError, *saving, *errors)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Adds --source NAME KEY=VALUE ..., which `read_call` reads."""
    parser.add_argument(
        "--source",
        nargs="+",
        required=True,
        metavar=("NAME", "KEY=VALUE"),
        help="of the data: emoji, array_record, ..., then its arguments, such as split=train",
    )


def add_workdirs(parser: argparse.ArgumentParser) -> None:
    """Adds --workdir PATH ..., --step N ... and --set KEY=VALUE ..., which `read_changes` reads."""
    parser.add_argument(
        "--workdir",
        nargs="+",
        action="extend",
        required=True,
        metavar="PATH",
        help="of a run, or of a published checkpoint: a file, a folder, gs:// or hf://owner/name; several "
        "are one model",
    )
    parser.add_argument(
        "--step",
        nargs="+",
        action="extend",
        type=int,
        default=[],
        metavar="N",
        help="of a run's checkpoint, once per workdir; the newest unless given",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="what a checkpoint does not state, or is to differ: tokenizer=FILE, image.num_heads=12, "
        "text.length=32, texts.lower=True, images=OPERATIONS; the output names each",
    )


def add_set(parser: argparse.ArgumentParser) -> None:
    """Adds --set KEY=VALUE ..., which `read_set` reads."""
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="changes the config, such as model.scan=False or 'total=1_000 steps'",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json FILE, which `show` takes."""
    parser.add_argument(
        "--json", metavar="FILE", help="writes the numbers there; - is stdout, without the text"
    )


def show(text: str, numbers: Any, path: str | None) -> None:
    """Prints the text, and writes the numbers as JSON to a file; or prints them alone, for "-"."""
    if path != "-":
        print(text)
    if path is not None:
        write_json(numbers, path)


def write_json(numbers: Any, path: str) -> None:
    """Writes JSON to a file, or to stdout for "-"; numbers that are not finite become null."""
    content = to_json(numbers, indent=2) + "\n"
    if path == "-":
        print(content, end="")
    else:
        write_file(Path(path), content)


def read_pair(
    word: str, *, flag: str, last: bool = False, example: str = "split=train"
) -> tuple[str, str]:
    """Takes "key=text" apart at the first "=", or at the last where keys may hold one.

    Raises:
      ValueError: there is no "=", or nothing before it.
    """
    key, equals, text = word.rpartition("=") if last else word.partition("=")
    if not (key and equals):
        raise ValueError(f"{flag}: got {word!r}, expected key=value, such as {example}.")
    return key, text


def read_pairs(
    words: Sequence[str], *, flag: str, last: bool = False, example: str = "split=train"
) -> dict[str, str]:
    """Takes several apart.

    Raises:
      ValueError: as `read_pair`, and for a key that comes twice.
    """
    pairs: dict[str, str] = {}
    for word in words:
        key, text = read_pair(word, flag=flag, last=last, example=example)
        if key in pairs:
            raise ValueError(f"{flag}: {key!r} is given twice: {list(words)}.")
        pairs[key] = text
    return pairs


def read_value(text: str, *, flag: str) -> Any:
    """Returns the Python literal that the text is (3, 0.5, True, None, (1, 2)), or else the text.

    Raises:
      ValueError: JSON's true, false and null; says Python's word.
    """
    # `literal_eval` would fail, and the word would silently become text, which counts as true.
    if text in _JSON_WORDS:
        raise ValueError(f"{flag}: got {text}; write {_JSON_WORDS[text]}, or '\"{text}\"' as text.")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def read_call(words: Sequence[str], *, flag: str) -> tuple[str, dict[str, Any]]:
    """Reads a name, then its arguments as key=value.

    Raises:
      ValueError: as `read_pairs` and `read_value`.
    """
    pairs = read_pairs(words[1:], flag=flag)
    return words[0], {key: read_value(text, flag=flag) for key, text in pairs.items()}


def read_changes(words: Sequence[str]) -> dict[str, Any]:
    """Returns the changes of --set for `load_model`: a tokenizer and operations as text, others as values.

    Raises:
      ValueError: as `read_pairs` and `read_value`.
    """
    pairs = read_pairs(words, flag="--set", example="image.num_heads=12")
    plain = ("tokenizer", "images")
    return {k: x if k in plain else read_value(x, flag="--set") for k, x in pairs.items()}


def print_notes(models: Sequence[Any], *, to_stderr: bool = False) -> None:
    """Prints what a user must know of each loaded model, such as an override of its preprocessing."""
    for model in models:
        for note in model.notes:
            print(f"note: {model.workdir}: {note}", file=sys.stderr if to_stderr else sys.stdout)


def read_set(words: Sequence[str]) -> list[str]:
    """Returns the overrides of --set, each key=value with the config's key, dotted.

    The trainer reads the values, by the types of the keys.

    Raises:
      ValueError: as `read_pairs`.
    """
    pairs = read_pairs(words, flag="--set", example="'total=1_000 steps'")
    return [f"{key}={text}" for key, text in pairs.items()]
