"""Start of a run: seconds from the command to its first step, without and with compiled programs on disk.

    python -m tools.bench start
    python -m tools.bench start --config configs/default.py --rounds 1

Each round trains for one step twice in a new process, first with an empty cache folder, then with what the
first left there. The clock stops when the first line of `metrics.jsonl` is there, which a step writes when it
has ended. Files that the machine holds in memory are not dropped.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.02
KINDS = ("nothing compiled", "compiled before")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `bench` reads."""
    parser.add_argument("--config", default="configs/emoji.py", help="of the run")
    parser.add_argument("--rounds", type=int, default=2)


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the seconds of each start and their medians."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache"}
            for number, kind in enumerate(KINDS):
                workdir = Path(folder) / str(number)
                command = train_command(args.config, workdir)
                found[kind].append(seconds_to(command, workdir / "metrics.jsonl", environment))
                print(f"{kind:<18} {found[kind][-1]:6.1f} s", flush=True)
    medians = {kind: statistics.median(seconds) for kind, seconds in found.items()}
    return {"config": args.config, "seconds": found, "median": medians}


def train_command(config: str, workdir: Path) -> list[str]:
    """One step, logged, without an evaluation."""
    words = ["-m", "bias_clip.train", f"--config={config}", f"--workdir={workdir}"]
    words += ["--config.total=1 steps", "--config.log_every=1 steps"]
    return [sys.executable, *words, "--config.evals={}"]


def seconds_to(command: Sequence[str], file: Path, environment: Mapping[str, str]) -> float:
    """Seconds from the command until `file` holds something; then waits for its end.

    Raises:
      ValueError: the command failed or ended without the file; has its last lines.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        seconds = None
        while process.poll() is None:
            if seconds is None and file.exists() and file.stat().st_size:
                seconds = time.perf_counter() - start
            time.sleep(POLL_SECONDS)
        if process.returncode or seconds is None:
            output.seek(0)
            end = output.read()[-500:]
            raise ValueError(f"{' '.join(command)} gave no first step; its last lines: {end}")
    return seconds
