"""Runs of seconds by the command that users type, as one process or as several of one run."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
# A config is code: this one brings its data along, and writes down which examples each process got.
CONFIG = """
import ctypes, json, os, signal
import jax
from bias_clip.data.stream import pipeline
from bias_clip.data.sources import SOURCES
from bias_clip.train import loop
from tests.train.tiny import squares_source, tiny_config

def get_config():
    SOURCES.setdefault("squares", squares_source)
    given = pipeline.TrainIterator.__next__

    def recorded(self):
        batch = given(self)
        path = os.path.join(os.environ["POD_RECORD"], f"{self._host[0]}.jsonl")
        with open(path, "a") as file:
            file.write(json.dumps([self._step, batch["index"].tolist()]) + "\\n")
        if f"{self._step}@{self._host[0]}" == os.environ.get("POD_SIGNAL"):
            os.kill(os.getpid(), getattr(signal, os.environ["POD_SIGNAL_NAME"]))
        return batch

    pipeline.TrainIterator.__next__ = recorded
    first_step = loop._first_step

    def slow(*arguments):
        seconds, _, process = os.environ.get("POD_SLOW_COMPILE", "0@0").partition("@")
        if int(process) == jax.process_index():
            ctypes.PyDLL(None).sleep(int(seconds))  # holds Python's lock, as a compiler may
        return first_step(*arguments)

    loop._first_step = slow
    retrieval = dict(type="retrieval", source=dict(name="squares", shift=5))
    config = tiny_config(total="20 steps", log_every="1 steps", checkpoint__every="20 steps")
    config.evaluation.every = "20 steps"
    config.evals.retrieval = retrieval
    return config
"""


def start(folder, workdir, *, devices, flags=(), environ=None):
    """Starts one process; `folder` gets its config and the record of its examples."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.py").write_text(CONFIG)
    (folder / "default.py").write_text("from configs.default import get_config\n")
    command = [sys.executable, "-m", "bias_clip.train", f"--config={folder / 'tiny.py'}"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *flags],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # several devices share no cache: compile quickly
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "POD_RECORD": str(folder),
            **(environ or {}),
        },
    )


def start_pod(folder, workdir, *, count=2, flags=(), environ=None):
    """Starts `count` processes that share 8 devices."""
    port = free_port()
    return [
        start(
            folder,
            workdir,
            devices=8 // count,
            flags=[
                f"--coordinator=127.0.0.1:{port}",
                f"--process_id={i}",
                f"--process_count={count}",
                *flags,
            ],
            environ=environ,
        )
        for i in range(count)
    ]


def signalled(step, process, name):
    """Environment under which process `process` gets the signal once it has read batch `step`."""
    return {"POD_SIGNAL": f"{step}@{process}", "POD_SIGNAL_NAME": name}


def finish(*runs, expected=0):
    """Waits for all; returns what each said, or fails with it."""
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [expected] * len(runs), "\n=====\n".join(said)
    return said


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def metrics(workdir):
    """{step: {name: value}}, the lines of a step joined."""
    steps = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        steps.setdefault(record.pop("step"), {}).update(record)
    return steps


def examples(folder, count):
    """{step: records of the global batch}, as the processes got them, in the order of hosts."""
    parts = []
    for i in range(count):
        lines = map(json.loads, (folder / f"{i}.jsonl").read_text().splitlines())
        parts.append(dict(lines))
    return {step: [row for part in parts for row in part[step]] for step in parts[0]}
