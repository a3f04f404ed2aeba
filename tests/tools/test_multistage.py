"""Stages from one line: what is run in which order, and that a stop at any point changes nothing."""

import fcntl
import functools
import json
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from bias_clip.cli import multistage
from bias_clip.cli.shared.commands import Step, Stopped, call, hold
from bias_clip.data.tables import read_table, write_table

ROOT = Path(__file__).parents[2]

CONFIG = """
import ml_collections


def get_config(arguments="0"):
    stage, *rest = arguments.split(",")
    data = dict(source=dict(name="emoji", split="train"), cells=None)
    config = ml_collections.ConfigDict(dict(total="1 steps", init_from=None, data=data))
    if stage == "1":
        config.data.cells = dict(table="")
    if rest:
        config.init_from = dict(path="")
    return config
"""

# Stands in for every command: counts its starts, fails where the file `fail` says so, and else leaves
# what the command would; tables lie ready.
FAKE = """
import json, pathlib, shutil, sys
out, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
name = f"{out.parent.name}/{out.name}"
with open(folder / "log", "a") as log: log.write(name + "\\n")
if (folder / "fail").read_text() == name: sys.exit("no luck")
if out.name == "run":
    out.mkdir()
    source = dict(name="emoji", split="train", some=[1, "a"])
    (out / "config.json").write_text(json.dumps(dict(data=dict(source=source))))
    (out / "report.html").touch()
elif out.name == "embeddings":
    out.mkdir()
    (out / "manifest.json").touch()
else:
    for end in ("", ".json"): shutil.copy(folder / "tables" / (name + end), str(out) + end)
"""


def write_tables(folder):
    for number, name in enumerate(("0/image", "0/text", "1/image", "1/text")):
        clusters = np.random.default_rng(number).integers(0, 2, 30)
        columns = {"id": [f"e{i}" for i in range(30)], "cluster": clusters}
        write_table(folder / f"stage{name}.parquet", columns, {"kind": "cells"})


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """The driver on commands of no cost; returns a function that runs it and says what was started."""
    config, log, fail = tmp_path / "config.py", tmp_path / "log", tmp_path / "fail"
    config.write_text(CONFIG)
    write_tables(tmp_path / "tables")
    commands = []

    def faked(step):
        commands.append(step.command)
        out = {"report.html": step.done.parent, "manifest.json": step.done.parent}
        out = out.get(step.done.name, step.done.with_suffix(""))
        command = [sys.executable, "-S", "-c", FAKE, str(out), str(tmp_path)]
        return step._replace(command=command)

    train, cluster = multistage.train_step, multistage.cluster_steps
    monkeypatch.setattr(multistage, "train_step", lambda *a: faked(train(*a)))
    monkeypatch.setattr(multistage, "cluster_steps", lambda *a: map(faked, cluster(*a)))

    def run(workdir, *flags, failing=""):
        fail.write_text(failing)
        log.write_text("")
        given = [f"--config={config}", f"--workdir={tmp_path / workdir}"]
        multistage.main([*given, *flags])
        return log.read_text().split()

    run.commands = commands
    return run


ALL = [
    *("stage0/run", "stage0/embeddings", "stage0/image.parquet"),
    *("stage1/run", "stage1/embeddings", "stage1/image.parquet", "stage2/run"),
]


def cells(folder):
    return {
        path.parent.name: read_table(path, kind="cells") for path in folder.glob("*/cells.parquet")
    }


def test_stages_follow_each_other_and_are_not_done_twice(fakes, tmp_path):
    assert fakes("w") == ALL
    assert fakes("w") == []
    assert json.loads((tmp_path / "w" / "manifest.json").read_text())["runs"][-1] == "stage2/run"
    found = cells(tmp_path / "w")
    assert [len(found[f"stage{j}"].manifest["tuples"][0]) for j in (0, 1)] == [1, 2]
    runs = [c for c in fakes.commands if "bias_clip.train" in c][:3]
    assert not any("cells.table" in word for word in runs[0])
    for stage in (1, 2):
        table = tmp_path / "w" / f"stage{stage - 1}" / "cells.parquet"
        assert f"--config.data.cells.table={table}" in runs[stage]
    assert next(c for c in fakes.commands if "bias_clip.cli.embed" in c)[5:9] == [
        *("--source", "emoji", "split='train'", "some=[1, 'a']")
    ]


@pytest.mark.parametrize("failing", ALL)
def test_a_failure_anywhere_ends_it_and_the_same_line_goes_on(fakes, tmp_path, failing):
    with pytest.raises(SystemExit) as failure:
        fakes("w", failing=failing)
    log = failing.replace("embeddings", "embed").removesuffix(".parquet") + ".log"
    assert "no luck" in (tmp_path / "w" / log).read_text()
    assert "status 1" in str(failure.value)
    assert fakes("w") == ALL[ALL.index(failing) :]
    fakes("whole")
    one, other = cells(tmp_path / "w"), cells(tmp_path / "whole")
    assert one.keys() == other.keys() == {"stage0", "stage1"}
    for stage in one:
        assert one[stage].manifest == other[stage].manifest


def test_both_modalities_are_clustered(fakes, tmp_path):
    fakes("w", "--cluster=both", "--stages=2")
    pair = [read_table(tmp_path / f"w/stage0/{m}.parquet", kind="cells") for m in ("text", "image")]
    text, image = (table.columns["cluster"] for table in pair)
    found = cells(tmp_path / "w")["stage0"].columns["cluster"]
    np.testing.assert_array_equal(found, 2 * text + image)


@pytest.mark.parametrize(("init", "start"), [("base", [0, 0]), ("warm", [0, 1])])
def test_later_stages_start_where_they_are_told(fakes, tmp_path, init, start):
    fakes("w", f"--init={init}")
    runs = [c for c in fakes.commands if "bias_clip.train" in c]
    for run, stage in zip(runs[1:], start, strict=True):
        assert f"--config.init_from.path={tmp_path / f'w/stage{stage}/run'}" in run
        assert any(word.endswith("config.py:1,init") for word in run)


@pytest.mark.parametrize(("init", "later"), [("scratch", "1,"), ("base", "1,init,")])
def test_stages_start_from_a_published_checkpoint(fakes, init, later):
    fakes("w", f"--init={init}", "--start=hf://owner/name")
    first, *rest = [c for c in fakes.commands if "bias_clip.train" in c]
    assert any(word.endswith("config.py:0,hf://owner/name") for word in first)
    for run in rest:
        assert any(word.endswith(f"config.py:{later}hf://owner/name") for word in run)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--k=5"], "k: 4 there, 5 now"),
        (["--seed=1"], "seed: 0 there, 1 now"),
        (["--set=total=2 steps"], "set: "),
        (["--cluster=both"], "cluster: 'image' there, 'both' now"),
    ],
)
def test_another_line_on_the_same_workdir_is_refused(fakes, flags, message):
    fakes("w", "--stages=2")
    with pytest.raises(SystemExit, match=message):
        fakes("w", "--stages=2", *flags)


def test_another_config_on_the_same_workdir_is_refused(fakes, tmp_path):
    fakes("w", "--stages=2")
    (tmp_path / "config.py").write_text(CONFIG.replace("1 steps", "9 steps"))
    with pytest.raises(
        SystemExit, match=r"config of stage 0.total: '1 steps' there, '9 steps' now"
    ):
        fakes("w", "--stages=2")


def test_a_folder_of_other_things_is_refused(fakes, tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "thesis.tex").touch()
    with pytest.raises(SystemExit, match="holds other things"):
        fakes("w")


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        (
            CONFIG.replace('dict(table="")', "None"),
            [],
            "config.data.cells is not a dict when .* '1,init'",
        ),
        (CONFIG.replace('dict(path="")', "None"), ["--init=warm"], "as --init warm needs"),
        (CONFIG, ["--set=total"], "expected key=value"),
        (CONFIG, ["--k=1"], "expected at least 1 stage, of 2 clusters"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused(fakes, tmp_path, config, flags, message):
    (tmp_path / "config.py").write_text(config)
    with pytest.raises(SystemExit, match=message):
        fakes("w", *flags)


def test_a_workdir_in_a_bucket_is_refused_and_no_folder_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="'gs:/bucket/mcl', an address"):
        multistage.main(["--config=config.py", "--workdir=gs://bucket/mcl"])
    assert not list(tmp_path.iterdir())


def test_a_killed_command_that_still_holds_the_folder_is_waited_for(tmp_path, capsys):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        let_go = threading.Timer(0.5, fcntl.flock, (file, fcntl.LOCK_UN))
        let_go.start()
        with hold(tmp_path, patience=60):
            pass
        let_go.join()
    assert "another process works in" in capsys.readouterr().err


def test_a_workdir_in_which_another_process_works_is_refused(fakes, tmp_path, monkeypatch):
    monkeypatch.setattr(multistage, "hold", functools.partial(hold, patience=0.5))
    fakes("w", "--stages=1")
    with (tmp_path / "w" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match="another process works in"):
            fakes("w", "--stages=1")


def test_a_command_outlives_a_signal_until_it_has_saved(tmp_path):
    code = (
        "import os, pathlib, signal, sys, time\n"
        "def save(*_): pathlib.Path(sys.argv[1]).touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "time.sleep(1)\n"  # until the other side listens
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)"
    )
    saved = tmp_path / "saved"
    step = Step([sys.executable, "-c", code, str(saved)], tmp_path / "done", tmp_path / "s" / "log")
    with (
        (tmp_path / ".lock").open("w") as lock,
        pytest.raises(Stopped, match="stopped in log of s"),
    ):
        call(step, lock.fileno())
    assert saved.exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_config_of_the_emoji_is_one_for_stages():
    from bias_clip.train.config_io import load_config

    plain, later = (load_config(ROOT / "configs" / "emoji_stages.py", stage) for stage in "01")
    assert plain.data.cells is None
    assert later.data.cells.table == ""
    with pytest.raises(ValueError, match="got '2' after the colon"):
        load_config(ROOT / "configs" / "emoji_stages.py", "2")
