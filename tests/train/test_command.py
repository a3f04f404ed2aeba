"""How the command ends, and where compiled code stays."""

import errno
import os
from pathlib import Path

import jax
import pytest

from bias_clip.core.storage import run_folder, writing
from bias_clip.train import __main__ as command
from bias_clip.train.loop import Interrupted


@pytest.fixture
def run(monkeypatch):
    """The command, of a run that does nothing but what it is given."""

    def main(body):
        for name in ("initialize_from_flags", "keep_pages", "load_config", "validate"):
            monkeypatch.setattr(command, name, lambda *_: None)
        monkeypatch.setattr(command.config_flags, "get_config_filename", lambda _: "configs/x.py")
        monkeypatch.setattr(command, "train", lambda *_, **__: body())
        if command._WORKDIR.value is None:
            monkeypatch.setattr(command, "_WORKDIR", type("Flag", (), {"value": "runs/x"}))
        command.main([])

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
    ("backend", "given", "expected"),
    [
        ("gpu", None, "run/compiled"),
        ("tpu", None, "run/compiled"),
        ("tpu", "shared", "shared"),
        ("cpu", None, None),
        ("cpu", "shared", "shared"),
    ],
)
def test_compiled_code_stays_in_the_workdir_but_on_cpus(
    run, monkeypatch, tmp_path, backend, given, expected
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(command, "_WORKDIR", type("Flag", (), {"value": tmp_path / "run"}))
    absolute = {name: name and str(tmp_path / name) for name in (given, expected)}
    before, seen = jax.config.jax_compilation_cache_dir, []
    jax.config.update("jax_compilation_cache_dir", absolute[given])
    try:
        run(lambda: seen.append(jax.config.jax_compilation_cache_dir))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert seen == [absolute[expected]]
