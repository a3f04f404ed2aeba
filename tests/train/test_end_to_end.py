"""The main job as a user runs it, cut short: from the command line, killed, and run again."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from bias_clip.train.display.goodput import PARTS as GOODPUT

ROOT = Path(__file__).parents[2]
SHORT = (
    "--config.total=12 steps",
    "--config.log_every=2 steps",
    "--config.checkpoint.every=2 steps",
    "--config.batch_size=32",
)
TIMED = {"seconds", "examples_per_second", "mfu", "input_wait", "goodput"}
TIMED |= {f"goodput/{part}" for part in GOODPUT}


def start(workdir, *flags):
    command = [sys.executable, "-m", "bias_clip.train", "--config=configs/emoji.py"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *SHORT, *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "HOME": str(workdir.parent)},
    )


def finish(workdir):
    run = start(workdir)
    _, errors = run.communicate()
    assert run.returncode == 0, errors
    return errors


def parameters(workdir):
    state = ocp.StandardCheckpointer().restore(workdir / "checkpoints" / "12" / "state")
    return ocp.tree.to_flat_dict(state, sep="/")


def metrics(workdir):
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in record.items() if k not in TIMED} for record in records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("emoji") / "run"
    return workdir, finish(workdir)


@pytest.mark.slow
def test_main_job_reports_its_progress_and_leaves_a_page(whole):
    workdir, errors = whole
    assert "step 12/12" in errors
    page = (workdir / "report.html").read_text()
    for name in ("style", "concepts", "gender", "tone", "style_retrieval"):
        assert name in page
    classes = [
        line["eval/style/classes"] for line in metrics(workdir) if "eval/style/classes" in line
    ]
    assert classes[-1] > 3_900


@pytest.mark.slow
def test_killed_at_any_moment_it_continues_bit_for_bit(whole, tmp_path):
    delay = random.Random(0)
    for _ in range(2):
        run = start(tmp_path)
        time.sleep(delay.uniform(5, 40))
        run.kill()
        run.communicate()
    finish(tmp_path)
    assert metrics(tmp_path) == metrics(whole[0])
    got, expected = parameters(tmp_path), parameters(whole[0])
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.batchsize=3", "Did you mean 'batch_size'"),
        ("--config.objective.sigmoid.margn=1", "'margn'"),
        ("--config=configs/nothing.py", "there is no config file"),
        ("--config.data.source.split=trian", "got ['trian'], expected some of ['train',"),
        ("--config.model.image.size=50", "but config.model.image.size is 50; set both to the same"),
    ],
)
def test_a_wrong_line_ends_at_once_with_what_is_wrong(tmp_path, flag, message):
    run = start(tmp_path / "run", flag)
    _, errors = run.communicate()
    assert run.returncode == 1
    assert errors.splitlines()[-1].startswith("error: ")
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_bug_in_a_config_file_shows_where_it_is(tmp_path):
    path = tmp_path / "configs" / "broken.py"
    path.parent.mkdir()
    path.write_text("def get_config():\n    return None.total\n")
    run = start(tmp_path / "run", f"--config={path}")
    _, errors = run.communicate()
    assert run.returncode != 0
    assert "broken.py" in errors
    assert "return None.total" in errors
