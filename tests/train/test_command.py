"""The command line: what it may say, how the command ends, and where compiled code stays."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from bias_clip.core.storage import run_folder, writing
from bias_clip.train import command
from bias_clip.train.config_io import load_config
from bias_clip.train.hosts import compiled
from bias_clip.train.loop import Interrupted
from bias_clip.train.options.command_line import Arguments, parse


@pytest.fixture
def run(monkeypatch):
    """The command, of a run that does nothing but what it is given."""

    def main(body, workdir="runs/x"):
        for name in ("join", "keep_pages", "load_config", "apply_overrides", "validate"):
            monkeypatch.setattr(command, name, lambda *_: None)
        monkeypatch.setattr(command, "train", lambda *_, **__: body())
        command.run(Arguments("configs/x.py", [], str(workdir), {}), [])

    return main


def stopped():
    raise Interrupted("stopped by signal SIGTERM after step 4; state saved.")


def full():
    with writing(Path("runs/metrics.jsonl")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def foreign():
    raise ValueError("of another library")


def test_a_run_that_was_stopped_and_saved_ends_with_75(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run(stopped)
    assert ended.value.code == 75
    assert "after step 4; state saved. Run the same line again" in capsys.readouterr().err


@pytest.mark.parametrize("body", [full, lambda: run_folder("s3://bucket/run")])
def test_our_own_errors_are_one_line_and_status_1(run, body):
    with pytest.raises(SystemExit) as ended:
        run(body)
    assert ended.value.code.startswith("error: ")  # a text: printed, and the status is 1
    assert "\n" not in ended.value.code


def test_an_error_of_another_library_keeps_its_stack(run):
    with pytest.raises(ValueError, match="of another library"):
        run(foreign)


@pytest.mark.parametrize(
    ("backend", "devices", "given", "expected"),
    [
        ("gpu", 8, None, "run/compiled"),
        ("tpu", 8, None, "run/compiled"),
        ("tpu", 8, "shared", "shared"),
        ("cpu", 1, None, "cache/bias_clip/compiled-abc"),
        ("cpu", 8, None, None),  # they may hang when they are read back
        ("cpu", 1, "shared", "shared"),
    ],
)
def test_compiled_code_stays_in_the_workdir_and_on_cpus_in_the_cache_of_the_user(
    run, monkeypatch, tmp_path, backend, devices, given, expected
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "processor_key", lambda: "abc")
    absolute = {name: name and str(tmp_path / name) for name in (given, expected)}
    before, seen = jax.config.jax_compilation_cache_dir, []
    limit = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", absolute[given])
    try:
        run(lambda: seen.append(jax.config.jax_compilation_cache_dir), tmp_path / "run")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", limit)
    assert seen == [absolute[expected]]


def test_the_key_of_a_processor_is_its_set_of_instructions(tmp_path):
    def key(text):
        (tmp_path / "cpuinfo").write_text(text)
        return compiled.processor_key(tmp_path / "cpuinfo")

    two = key("model name\t: A\nflags\t\t: fma avx2\n\nflags\t\t: fma avx2\n")
    assert two == key("flags\t\t: avx2 fma\ncpu MHz\t\t: 2400\n")  # the order and the clock differ
    assert two != key("flags\t\t: fma avx2 avx512f\n")


def test_help_has_keys_defaults_and_an_example_and_loads_no_jax():
    line = "import sys; from bias_clip.train.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    line += "print('loaded', [m for m in ('jax', 'numpy', 'ml_collections', 'absl') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("loaded []\n")
    for part in ("--config.batch_size=256", "config.seed = 0  #", "default: 300", "sinks"):
        assert part in run.stdout


def test_the_line_is_taken_apart():
    words = ["--config=c.py:a", "--config.total=9 steps", "--workdir=w", "--config.seed", "3"]
    got = parse([*words, "--process_id=1"])
    assert got.config == "c.py:a"
    assert got.overrides == ["total=9 steps", "seed=3"]
    assert got.hosts["process_id"] == 1
    assert got.hosts["wait_for_hosts"] == 300.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=c.py"], "required: --workdir"),
        (["--config=c.py", "--workdir=w", "--config.seed", "--x"], "--config.seed has no value"),
        (["--config=c.py", "--workdir=w", "--proces_id=1"], "unrecognized arguments: --proces_id"),
        (["--config=c.py", "--workdir=w", "--process_count=0"], "expected at least 1"),
    ],
)
def test_a_wrong_line_ends_with_status_2(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_package_is_one_line_with_the_extra(monkeypatch):
    from bias_clip.train.__main__ import main

    monkeypatch.setitem(sys.modules, "bias_clip.train.command", None)
    error = ModuleNotFoundError("No module named 'grain'", name="grain")
    monkeypatch.setattr("builtins.__import__", _refusing("bias_clip.train.command", error))
    with pytest.raises(SystemExit) as ended:
        main(["--config=c.py", "--workdir=w"])
    assert "training needs grain, which is not installed" in ended.value.code
    assert "pip install 'bias_clip[train]'" in ended.value.code


def _refusing(name, error):
    original = __import__

    def load(module, *rest, **more):
        if module == name:
            raise error
        return original(module, *rest, **more)

    return load


def test_an_error_of_a_config_file_is_ours():
    with pytest.raises(ValueError, match="after the colon") as caught:
        load_config(Path("configs/m4_people.py"), "nonsense")
    assert command._is_ours(caught.value)
