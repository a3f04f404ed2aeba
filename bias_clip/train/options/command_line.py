"""The trainer's command line. Imports only the standard library, so that --help answers quickly."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

_USAGE = (
    "python -m bias_clip.train --config=FILE[:ARGUMENT] [--config.KEY=VALUE ...] --workdir=FOLDER"
)
_EXAMPLE = """
  python -m bias_clip.train --config=configs/emoji.py --workdir=runs/emoji
  python -m bias_clip.train --config=configs/emoji.py --workdir=runs/mine \\
      --config.batch_size=256 --config.objective.fairkl.coef=0.1 --config.data.columns.labels=concept
"""
_KEYS = """
--config.KEY=VALUE sets one key of the config, whether the file sets it or not: a key of the schema
below, or an argument of the source, the model, a term or an evaluator. Tuples and dicts are Python
literals; --config.evals.NAME=None and --config.objective.NAME=None leave one out.

A signal (Ctrl-C) saves the run and ends it with status 75; the same line continues it.

The schema, with its defaults:
"""


class Arguments(NamedTuple):
    """The command line.

    Attributes:
      config: "FILE" or "FILE:ARGUMENT".
      overrides: "key=value".
      workdir: the folder of the run.
      hosts: arguments of `hosts.distributed.join`, for runs on many hosts.
      recheck_every: steps between two that run twice, or None.
    """

    config: str
    overrides: list[str]
    workdir: str
    hosts: dict[str, Any]
    recheck_every: int | None = None


def parse(argv: Sequence[str]) -> Arguments:
    """Reads the command line; prints help, or an error with status 2, and exits."""
    overrides, rest = _split(argv)
    values = vars(_parser().parse_args(rest))
    config, workdir = values.pop("config"), values.pop("workdir")
    recheck_every = values.pop("recheck_every")
    return Arguments(config, overrides, workdir, values, recheck_every)


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(overrides as "key=value", all other arguments)."""
    overrides, rest, words = [], [], iter(argv)
    for word in words:
        if not word.startswith("--config."):
            rest.append(word)
        elif "=" in word:
            overrides.append(word.removeprefix("--config."))
        else:
            overrides.append(f"{word.removeprefix('--config.')}={_value_of(word, words)}")
    return overrides, rest


def _value_of(word: str, words) -> str:
    value = next(words, None)
    if value is None or value.startswith("--"):
        _parser().error(f"{word} has no value; expected {word}=VALUE")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bias_clip.train",
        usage=_USAGE,
        description="Trains an image-text model, evaluates it and writes a report; continues a run "
        "that was stopped.",
        epilog=f"examples:{_EXAMPLE}{_KEYS}{_schema()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, metavar="FILE[:ARGUMENT]", help="a file with get_config()")
    add("--workdir", required=True, metavar="FOLDER", help="a folder, or gs://bucket/folder")
    add(
        "--recheck_every",
        type=_at_least(int, 1),
        metavar="N",
        help="run every N-th step twice and compare bits: finds a device that computes wrong values "
        "(default: never)",
    )
    hosts = parser.add_argument_group("many hosts, if no launcher sets these")
    add = hosts.add_argument
    add("--coordinator", metavar="HOST:PORT", help="address of process 0")
    add("--process_id", type=_at_least(int, 0), metavar="N", help="number of this process, from 0")
    add(
        "--process_count",
        type=_at_least(int, 1),
        metavar="N",
        help="processes of all hosts; 1: only this one",
    )
    add(
        "--wait_for_hosts",
        type=_at_least(float, 1.0),
        default=300.0,
        metavar="SECONDS",
        help="wait so long for all to start (default: 300)",
    )
    add(
        "--lost_host_after",
        type=_at_least(float, 5.0),
        default=100.0,
        metavar="SECONDS",
        help="silence of a host that ends the run (default: 100)",
    )
    add(
        "--profiler_port",
        type=_at_least(int, 1),
        metavar="PORT",
        help="the port that jax.collect_profile connects to",
    )
    return parser


def _at_least(kind, least):
    def read(text: str):
        value = kind(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"got {text}; expected at least {least}")
        return value

    read.__name__ = kind.__name__
    return read


def _schema() -> str:
    """The body of `default_config` with its comments, read as text because importing it is slow."""
    source = (Path(__file__).parent / "schema.py").read_text()
    body = source.partition("config = ml_collections.ConfigDict()\n")[2]
    lines = body.partition("    return config")[0].splitlines()
    return "\n".join(line.removeprefix("  ") for line in lines)
