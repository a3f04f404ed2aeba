"""`--help` of every command: at once, with an example, and a word on every option."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from bias_clip.cli.__main__ import TOOLS, first_line, main, module_of

ROOT = Path(__file__).parents[2]
OURS = [tool for tool in TOOLS if tool != "train"]  # whose flags are absl's
HEAVY = "jax flax grain pyarrow tensorflow_datasets scipy matplotlib PIL optax orbax absl".split()

SHOW = f"""
import resource, runpy, sys
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    heavy = [name for name in {HEAVY} if name in sys.modules]
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(heavy, used.ru_utime + used.ru_stime, file=sys.stderr)
"""


@pytest.mark.parametrize("tool", OURS)
def test_help_imports_nothing_heavy_and_takes_under_a_second(tool):
    door = ROOT / "tools" / f"{tool}.py"
    path = door if door.exists() else Path(importlib.import_module(module_of(tool)).__file__)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[:] = [{str(path)!r}, '--help']\n{SHOW}"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    heavy, seconds = done.stderr.rsplit(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 1.0
    assert "usage:" in done.stdout


@pytest.mark.parametrize("tool", OURS)
def test_help_says_what_each_option_is_and_gives_a_line_to_type(tool):
    module = importlib.import_module(module_of(tool))
    for parser in _all_parsers(module.make_parser()):
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), action.dest
    name = tool.replace("_", "-")
    assert f"bias-clip {name} " in module.__doc__.partition("\n\n")[2].partition("\n\n")[0]


def _all_parsers(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def test_every_door_of_a_checkout_is_a_command_and_the_reverse():
    doors = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"bench"}
    assert doors == set(TOOLS) - {"train", "configs"}


def test_the_command_lists_all_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for tool in TOOLS:
        assert f"  {tool.replace('_', '-')} " in out
        assert first_line(tool) in out


def test_a_command_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evalute"])
    assert ended.value.code == 2
    assert "invalid choice: 'evalute'" in capsys.readouterr().err


def test_words_are_handed_on(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bias-clip"])
    with pytest.raises(SystemExit) as ended:
        main(["exposure-bias", "--workdir", "x"])
    assert ended.value.code == 2
    assert "required: --by, --label; see bias-clip exposure-bias --help" in capsys.readouterr().err
