"""Stages as a user runs them, cut short: from the command line, killed, and run again."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

ROOT = Path(__file__).parents[2]

TINY = """
from configs.default import get_config as get_default


def get_config(arguments="0"):
    stage, *rest = arguments.split(",")
    config = get_default()
    ops = "decode|background(white)|resize(16)|value_range(-1,1)"
    config.total, config.batch_size, config.log_every = "6 steps", 16, "2 steps"
    config.data.source = dict(name="emoji", split="concepts", unit="entry")
    config.data.image = config.evaluation.image = ops
    config.data.text.length = 8
    config.model.image = dict(variant="mu/8", size=16)
    config.model.text = dict(variant="mu", vocab_size=2_000, length=8, out_dim=32)
    config.evals = dict()
    config.checkpoint.every = "2 steps"
    if stage == "1":
        config.data.cells = dict(table="", mode="batch", small="merge")
    if rest:
        config.init_from = dict(path="")
    return config
"""


@pytest.fixture
def line(tmp_path):
    (tmp_path / "configs").mkdir()
    shutil.copy(ROOT / "configs" / "default.py", tmp_path / "configs")
    config = tmp_path / "configs" / "tiny_stages.py"
    config.write_text(TINY)
    # One device, as a user has it, so that compiled programs are kept and the line's trainers share them.
    env = {"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)}
    command = [sys.executable, "tools/multistage.py", f"--config={config}", "--k=2", "--stages=2"]

    def start(workdir):
        return subprocess.Popen(
            [*command, f"--workdir={tmp_path / workdir}"],
            cwd=ROOT,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.mark.slow
def test_killed_at_any_moment_the_same_line_ends_with_the_same_models(line, tmp_path):
    delay = random.Random(0)
    for _ in range(3):
        driver = line("killed")
        time.sleep(delay.uniform(3, 20))
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
    for workdir in ("killed", "whole"):
        driver = line(workdir)
        _, errors = driver.communicate()
        assert driver.returncode == 0, errors
    for stage in range(2):
        one, other = (parameters(tmp_path / w / f"stage{stage}/run") for w in ("killed", "whole"))
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)
    log = (tmp_path / "whole" / "stage1" / "run.log").read_text()
    assert "an epoch has" in log


def parameters(workdir):
    state = ocp.StandardCheckpointer().restore(workdir / "checkpoints" / "6" / "state")
    return ocp.tree.to_flat_dict(state, sep="/")
