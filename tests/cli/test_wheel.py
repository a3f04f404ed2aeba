"""The wheel: holds what a checkout holds of the package, and runs outside of one."""

import email
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bias_clip.cli.__main__ import TOOLS
from tests.users import environment

ROOT = Path(__file__).parents[2]
PARTS = ("bias_clip", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since setuptools leaves folders beside what it builds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        path = ROOT / part
        ignored = shutil.ignore_patterns("__pycache__")
        if path.is_dir():
            shutil.copytree(path, source / part, ignore=ignored)
        else:
            shutil.copy(path, source / part)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "."]
    done = subprocess.run(
        [*build, "--no-index", "-w", str(out)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel in it, as pip lays it out, away from the checkout."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def run(installed, *words, cwd, isolated=()):
    env = environment(PYTHONPATH=str(installed))
    return subprocess.run(
        [sys.executable, *isolated, *words], cwd=cwd, env=env, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_the_configs(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    for path in sorted((ROOT / "bias_clip").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(ROOT)) in held
    for path in (ROOT / "configs").glob("*.py"):
        assert f"bias_clip/configs/{path.name}" in held
    assert "bias_clip/py.typed" in held
    assert not [name for name in held if name.startswith(("tests/", "tools/", "configs/"))]


@pytest.mark.slow
def test_the_wheel_has_the_command_and_the_extras(wheel):
    read = zipfile.ZipFile(wheel)
    (info,) = [name for name in read.namelist() if name.endswith("/METADATA")]
    metadata = email.message_from_bytes(read.read(info))
    assert {"train", "test", "tpu", "cuda", "gcs", "beam"} <= set(
        metadata.get_all("Provides-Extra") or []
    )
    points = read.read(info.replace("METADATA", "entry_points.txt")).decode()
    assert "bias-clip = bias_clip.cli.__main__:main" in points


@pytest.mark.slow
def test_the_installed_commands_run_in_any_folder(installed, tmp_path):
    command = ["-m", "bias_clip.cli"]
    listed = run(installed, *command, "--help", cwd=tmp_path)
    assert all(f"  {tool.replace('_', '-')} " in listed.stdout for tool in TOOLS)
    done = run(installed, *command, "configs", "--out", "configs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "configs" / "emoji.py").is_file()
    source = ["--source", "emoji", "split=train", "unit=entry", "--out", "a.parquet"]
    done = run(installed, *command, "annotate", *source, "--report", "report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        str(installed)
        in run(
            installed, "-c", "import bias_clip.cli as cli; print(cli.__path__)", cwd=tmp_path
        ).stdout
    )


@pytest.mark.slow
def test_a_copied_config_trains_outside_of_a_checkout(installed, tmp_path):
    command = ["-m", "bias_clip.cli"]
    assert not run(installed, *command, "configs", "--out", "configs", cwd=tmp_path).returncode
    quick = ["--config.total=2 steps", "--config.batch_size=8", "--config.log_every=1 steps"]
    train = ["train", "--config=configs/emoji.py", "--workdir=w", *quick]
    done = run(installed, *command, *train, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "w" / "report.html").is_file()
    record = (tmp_path / "w" / "run.json").read_text()
    assert re.search(r"python -m bias_clip.train --config=configs/emoji.py", record)


BLOCKED = """
import importlib.abc, runpy, sys
from bias_clip.core.extras import extra_of
class Base(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if extra_of(name) is not None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Base())
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config=configs/emoji.py", "--workdir=w"],
        ["annotate", "--source", "emoji", "--out", "a.parquet"],
        ["evaluate", "--workdir", "w"],
        ["report", "--workdir", "w"],
    ],
)
def test_a_base_install_says_which_extra_to_type(installed, tmp_path, words):
    done = run(installed, "-c", BLOCKED, "bias_clip.cli", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: (this|training) needs \S+, which is not installed: pip install ['\"]bias_clip\[train\]['\"]\n",
        done.stderr,
    ), done.stderr[-2000:]


@pytest.mark.slow
def test_a_base_install_lists_the_commands(installed, tmp_path):
    for words in (["--help"], ["annotate", "--help"], ["launch", "slurm", "--help"]):
        done = run(installed, "-c", BLOCKED, "bias_clip.cli", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
