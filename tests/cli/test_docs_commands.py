"""Every command that README, docs and configs/README.md show is one that can be typed.

Tools parse their words with the parser that runs; configs are loaded and take the overrides; launches are
shown; extras and files exist. Commands of other programs are listed here by name.
"""

import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import bias_clip.pretrained
import configs.finetune
from bias_clip.cli.__main__ import TOOLS, module_of
from bias_clip.cli.launch import checks
from bias_clip.cli.shared.flags import read_call, read_set
from bias_clip.pretrained import inspect_pretrained
from bias_clip.pretrained.tokenizer import Tokenizer
from bias_clip.train.config_io import load_config
from bias_clip.train.options.command_line import parse
from bias_clip.train.options.overrides import apply_overrides
from tests.cli.commands_in_docs import PAGES, ROOT, find_commands
from tests.pretrained.cases import GOLDEN
from tests.users import environment

COMMANDS = find_commands()
OTHERS = "gcloud kubectl py-spy ray scancel tail tensorboard".split()  # not ours: not in the venv
BEAM_RUNNERS = "DirectRunner DataflowRunner FlinkRunner SparkRunner".split()
_SAVED = {
    path: text
    for page in PAGES
    for path, text in re.findall(
        r"Save this as `([^`]+)`:\n\n```python\n(.*?)^```$",
        page.read_text(),
        re.DOTALL | re.MULTILINE,
    )
}
EXTRAS = set(re.findall(r'^ {8}"(\w+)": ', (ROOT / "setup.py").read_text(), re.MULTILINE))


def name_of(command):
    return f"{command.page}: {' '.join(command.words)[:60]}"


@pytest.fixture(autouse=True)
def at_the_top(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(bias_clip.pretrained, "inspect_pretrained", published)
    monkeypatch.setattr(
        configs.finetune, "inspect_pretrained", published
    )  # as its importers see it


def published(path, *, tokenizer=None):
    """Stands for any address: there is no network in tests."""
    assert path.startswith("hf://")
    loaded = inspect_pretrained(GOLDEN / "hf_siglip_bfloat16")
    sizes = loaded.config["text"]
    loaded.config["text"] = {**sizes, "vocab_size": 2_000}
    rules = {"tokenizer": "emoji", "length": sizes["length"]}
    return loaded._replace(tokenizer=Tokenizer(list, sizes["length"], 2_000, rules, ()))


@pytest.mark.parametrize("command", COMMANDS, ids=map(name_of, COMMANDS))
def test_a_command_of_the_docs_can_be_typed(command, monkeypatch, capsys):
    program, words = command.words[0], list(command.words[1:])
    name = Path(program).name
    if name in ("python", "python3"):
        check_python(words, monkeypatch, capsys)
    elif name == "bias-clip":
        check_tool(words[0].replace("-", "_"), words[1:], monkeypatch, capsys)
    elif name == "pip":
        check_pip(words)
    elif name == "export":  # of the shell: a variable that the trainer or a launcher reads
        assert words[0].partition("=")[0] in ("BIAS_CLIP_TOKEN", "LIBTPU_INIT_ARGS")
    elif name == "source":
        assert words[0].endswith("venv/bin/activate")
    elif program.startswith("--runner="):  # added to beam-annotate, which hands them on
        assert program.partition("=")[2] in BEAM_RUNNERS
        assert all(word.startswith("--") for word in words)
    elif name not in OTHERS:
        path = ROOT / program
        assert path.is_file()
        assert path.stat().st_mode & 0o100


def check_python(words, monkeypatch, capsys):
    if words[0] != "-m":
        path = Path(words[0])
        assert (ROOT / path).is_file(), f"there is no {path}"
        check_tool(path.stem, words[1:], monkeypatch, capsys)
    elif words[1] == "bias_clip.train":
        check_training(words[2:])
    elif words[1].startswith(("tools.", "bias_clip.cli.")):
        check_tool(words[1].partition(".")[2].removeprefix("cli."), words[2:], monkeypatch, capsys)
    else:
        assert words[1] in ("venv", "pytest", "jax.collect_profile")


def check_pip(words):
    assert words[0] == "install"
    text = " ".join(words)
    for extras in re.findall(r"(?:\.|bias_clip)\[([a-z0-9,]+)\]", text):
        assert set(extras.split(",")) <= EXTRAS
    for path in re.findall(r"-c (\S+)", text):
        assert (ROOT / path).is_file()


def check_tool(tool, words, monkeypatch, capsys):
    if tool == "train":
        return check_training(words)
    if tool == "launch":
        return check_launch(words, monkeypatch, capsys)
    if tool == "beam_annotate":
        importlib.import_module(module_of(tool)).make_parser().parse_known_args(words)
        return None
    ours = tool in TOOLS
    module = importlib.import_module(module_of(tool) if ours else f"tools.{tool}")
    args = (module.make_parser(words[:1]) if tool == "bench" else module.make_parser()).parse_args(
        words
    )
    if getattr(args, "start", None):  # multistage adds it to the config's argument
        args.config = f"{args.config}:0,{args.start}"
    for text in [args.config] if isinstance(vars(args).get("config"), str | Path) else []:
        load(str(text), read_set(vars(args).get("set", [])))
    for text in vars(args).get("config") or [] if tool == "sweep" else []:
        load(text, read_set(args.set))
    if vars(args).get("source"):
        read_call(args.source, flag="--source")
    return None


def check_training(words):
    """The trainer's flags; and the config takes the overrides."""
    arguments = parse(words)
    load(arguments.config, arguments.overrides)


def load(spec, overrides):
    path, _, argument = spec.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        there = ROOT / path
        if not there.exists():  # a config of the reader's own, which a page has them save
            there = Path(folder) / path
            there.parent.mkdir()
            there.write_text(_SAVED[path])
            for example in (ROOT / "configs").glob("*.py"):
                (there.parent / example.name).symlink_to(example)
        config = load_config(there, *filter(None, [argument]))
    apply_overrides(config, overrides)
    return config


def check_launch(words, monkeypatch, capsys):
    """It shows what it would do, with all that a launch is checked for, but whether it is committed."""
    from bias_clip.cli.launch.__main__ import main

    monkeypatch.setattr(checks, "_check_committed", lambda _: None)  # of whoever works here
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "bias_clip.train" in shown


def test_commands_are_found_in_all_their_forms():
    pages = {command.page for command in COMMANDS}
    assert {"README.md", "docs/pods.md", "docs/balancing.md", "configs/README.md"} <= pages
    assert len(COMMANDS) > 40
    assert any(command.variables for command in COMMANDS)


@pytest.mark.slow
def test_the_balancing_commands_of_the_readme_run(tmp_path):
    """In a folder of their own, one after the other; the training for two steps."""
    lines = [c.words for c in COMMANDS if c.page == "README.md" and "runs/m4/" in " ".join(c.words)]
    lines += [
        c.words for c in COMMANDS if c.page == "README.md" and "emoji_m4.py" in " ".join(c.words)
    ]
    assert len(lines) == 3
    quick = ["--config.total=2 steps", "--config.batch_size=8", "--config.log_every=1 steps"]
    for name in ("tools", "configs", "bias_clip"):
        (tmp_path / name).symlink_to(ROOT / name)
    for words in lines:
        more = quick if "bias_clip.train" in words or "train" in words[:2] else []
        done = subprocess.run(
            [sys.executable, *_as_module(words), *more],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / "emoji_m4" / "report.html").is_file()


def _as_module(words):
    return ["-m", "bias_clip.cli", *words[1:]] if Path(words[0]).name == "bias-clip" else words[1:]
