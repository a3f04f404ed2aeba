"""Trains image-text models and works on their data; a command per job.

    bias-clip train --config=configs/emoji.py --workdir=runs/emoji
    bias-clip evaluate --help

`bias-clip NAME` is `python -m bias_clip.cli.NAME`, and in a checkout `python tools/NAME.py`.
"""

import ast
import importlib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from bias_clip.cli.shared.flags import Parser, in_one_line

# In the order of use; "_" is written "-" on the command line.
TOOLS = (
    "train",
    "evaluate",
    "audit",
    "compare",
    "report",
    "sweep",
    "annotate",
    "measure",
    "filter",
    "balance",
    "compare_weights",
    "priors",
    "exposure_bias",
    "embed",
    "cluster",
    "multistage",
    "interpolate",
    "export",
    "columns",
    "hand_on",
    "prepare",
    "beam_annotate",
    "export_array_record",
    "regroup_parquet",
    "compile_plan",
    "launch",
    "configs",
)
# Of what is in the folder `curate`: they make data better, or hand it on.
_CURATE = (
    "measure",
    "filter",
    "compare_weights",
    "priors",
    "hand_on",
    "prepare",
    "columns",
    "regroup_parquet",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Hands the command line on to the command that its first word names."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0].replace("-", "_") in TOOLS:
        call(words[0].replace("-", "_"), words[1:])
        return
    make_parser().parse_args(words or ["--help"])


def call(tool: str, words: Sequence[str]) -> None:
    """Runs a command as `python -m` does: it finds its words, and its name, in `sys.argv`."""
    # Tools read their words, and argparse the program's name, from here.
    sys.argv = [f"bias-clip {tool.replace('_', '-')}", *words]
    if tool == "train":
        # Run as `python -m bias_clip.train` runs it, so that both ways behave alike.
        in_one_line(lambda: _run("bias_clip.train"))
    else:
        sys.exit(importlib.import_module(module_of(tool)).main())


def module_of(tool: str) -> str:
    """Returns the module that has a tool's `main`."""
    if tool == "train":
        return "bias_clip.train.__main__"
    return f"bias_clip.cli.{_file_of(tool).removesuffix('.py').replace('/', '.')}"


def make_parser() -> Parser:
    """Returns the parser of `bias-clip`, which lists the commands without importing them."""
    listed = "\n".join(f"  {tool.replace('_', '-'):<21} {first_line(tool)}" for tool in TOOLS)
    parser = Parser(
        prog="bias-clip", description=__doc__, epilog=f"commands:\n{listed}\n\nEach has a --help."
    )
    parser.add_argument(
        "command",
        choices=[tool.replace("_", "-") for tool in TOOLS],
        metavar="COMMAND",
        help="below",
    )
    return parser


def first_line(tool: str) -> str:
    """Returns what a command says of itself; its file is read, not run."""
    if tool == "train":
        return "Trains a model by a config; resumes, evaluates, and writes a report."
    # Importing every tool for the list of commands would take seconds.
    text = (Path(__file__).parent / _file_of(tool)).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def _file_of(tool: str) -> str:
    """The file of a tool, within this folder."""
    if tool == "launch":
        return "launch/__main__.py"
    return f"curate/{tool}.py" if tool in _CURATE else f"{tool}.py"


def _run(package: str) -> None:
    runpy.run_module(package, run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
