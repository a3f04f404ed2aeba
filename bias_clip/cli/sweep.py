"""Runs several configs with several seeds, one after another or side by side; compares them at the end.

    bias-clip sweep --workdir=runs/debiased --seeds 3 --jobs 2 \\
        --config=configs/emoji_debiased.py:clip --config=configs/emoji_debiased.py:specific \\
        --set 'total=90_000 examples' --metrics 'style/acc'

Each run is `python -m bias_clip.train` with a workdir of its own, `<workdir>/<name>_<seed>`, and a
log beside it. Start the same line again after an interruption: finished runs are kept, the others
continue where they were. With `--jobs` each run gets its own share of the cores.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from bias_clip.cli.compare import add_table_arguments, check_page, compare
from bias_clip.cli.shared.flags import Parser, add_set, read_set, run_tool


class Run(NamedTuple):
    """One training run: its command, where it writes, and the file that it writes last."""

    name: str
    command: list[str]
    workdir: Path
    last: str = "report.html"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs, then compares."""
    run_tool(make_parser(), work, argv, errors=(RuntimeError,))


def work(args: argparse.Namespace) -> None:
    """Runs what is not finished, and compares all.

    Raises:
      ValueError: a plan that makes no sense, or runs that cannot be compared.
      RuntimeError: a run failed.
    """
    check_page(args.plot)  # before the hours of training, not after
    runs = list(plan(args.config, args.seeds, args.set, args.workdir))
    run_all(runs, args.jobs)
    groups: dict[str, list[Path]] = {}
    for run in runs:
        # The seeds of a config are one group, whose mean and deviation are compared.
        groups.setdefault(run.name, []).append(run.workdir)
    compare(groups, args.metrics, json_path=args.json, plot_path=args.plot)


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add(
        "--config",
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE[:ARGUMENT]",
        help="may be several",
    )
    add("--workdir", type=Path, required=True, metavar="DIR", help="folder of all the runs")
    add("--seeds", type=int, default=3, metavar="N", help="0 to N - 1, of each config")
    add_set(parser)
    add("--jobs", type=int, default=1, metavar="N", help="runs side by side")
    add_table_arguments(parser)
    return parser


def plan(configs: list[str], seeds: int, overrides: list[str], workdir: Path) -> Iterator[Run]:
    """Yields the runs, all configs of a seed before those of the next.

    Raises:
      ValueError: two configs of one name, an override without "=", fewer than one seed, or a
        workdir that is not a folder.
    """
    from bias_clip.core.storage import check_folder

    check_folder(workdir)
    names = [_name(config) for config in configs]
    if len(set(names)) < len(names):
        raise ValueError(f"got configs named {names}; expected different names.")
    read_set(overrides)  # raises for what is not key=value
    if seeds < 1:
        raise ValueError(f"got {seeds} seeds; expected at least 1.")
    # Seeds outermost: after a part of the time all configs have equally many runs.
    for seed in range(seeds):
        for name, config in zip(names, configs, strict=True):
            own = workdir / f"{name}_{seed}"
            flags = [f"--config={config}", f"--workdir={own}", f"--config.seed={seed}"]
            flags += [f"--config.{override}" for override in overrides]
            yield Run(name, [sys.executable, "-m", "bias_clip.train", *flags], own)


def run_all(runs: list[Run], jobs: int) -> None:
    """Runs what is not finished.

    Raises:
      RuntimeError: a run failed; no further one was started. Says where its log is.
    """
    from tqdm import tqdm

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if jobs < 1 or (jobs > 1 and jobs > len(cores)):
        raise ValueError(f"got {jobs} jobs; expected 1 to {max(1, len(cores))}, the cores at hand.")
    # A share of the cores goes back into the queue when its run has ended.
    shares: SimpleQueue[list[int]] = SimpleQueue()
    for job in range(jobs):
        shares.put(cores[job::jobs])
    left = [run for run in runs if not is_finished(run)]
    failed: list[Run] = []

    def one(run: Run) -> None:
        # A failure usually has a cause that the next run shares.
        if failed:
            return
        share = shares.get()
        try:
            # A single run at a time may use all cores, and is not pinned.
            if _call(run, share if jobs > 1 else []):
                failed.append(run)
        finally:  # also after an error of ours: another thread waits for a share
            shares.put(share)

    with ThreadPoolExecutor(jobs) as pool:
        done = pool.map(one, left)
        list(tqdm(done, total=len(runs), initial=len(runs) - len(left), unit="run"))
    if failed:
        raise RuntimeError(
            f"{failed[0].workdir.name} failed; see {_log(failed[0])}. Finished runs are kept: start "
            "the same line again."
        )


def is_finished(run: Run) -> bool:
    """Whether the run wrote what it writes last."""
    return (run.workdir / run.last).exists()


def _call(run: Run, cores: list[int]) -> int:
    run.workdir.parent.mkdir(parents=True, exist_ok=True)
    command = run.command
    if cores:  # before XLA counts the cores
        pin = (
            f"import os, sys; os.sched_setaffinity(0, {cores}); os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-c", pin, *command]
    with _log(run).open("a") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode


def _log(run: Run) -> Path:
    return run.workdir.with_suffix(".log")


def _name(config: str) -> str:
    """ "configs/emoji.py:clip" is "clip", "configs/emoji.py" is "emoji"."""
    path, _, argument = config.partition(":")
    return argument or Path(path).stem


if __name__ == "__main__":
    main()
