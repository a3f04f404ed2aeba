"""Runs several configs with several seeds, one after another or side by side; compares them at the end.

    bias-clip sweep --workdir=runs/debiased --seeds 3 --jobs 2 \\
        --config=configs/emoji_debiased.py:clip --config=configs/emoji_debiased.py:specific \\
        --set 'total=90_000 examples' --metrics 'style/acc'

Each run is `python -m bias_clip.train` with a workdir of its own, `<workdir>/<name>_<seed>`, and a
log beside it. Start the same line again after an interruption: finished runs are kept, the others
continue where they were. With `--jobs` each run gets its own share of the cores, and of the GPUs or TPU
chips that `--chips` names; several small runs may share a GPU. With `--part` each of several hosts does its
part of the runs, in one folder that all of them see; the last line compares when all are finished.

    bias-clip sweep --workdir=/shared/runs --jobs 16 --chips cuda:8 --part 2/4 --config=configs/emoji.py
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from bias_clip.cli.compare import add_table_arguments, check_page, compare
from bias_clip.cli.shared.flags import Parser, add_set, read_set, run_tool
from bias_clip.cli.shared.shares import Share, make_shares


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
    run_all(part_of(runs, args.part), args.jobs, args.chips)
    others = [run.workdir.name for run in runs if not is_finished(run)]
    if others:
        print(f"not compared: other parts have yet to finish {', '.join(others)}")
        return
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
    add("--chips", metavar="KIND:N", help="cuda:N or tpu:N, of this host, to split among the jobs")
    add("--part", default="1/1", metavar="K/N", help="of N hosts this is the K-th, from 1")
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


def part_of(runs: list[Run], part: str) -> list[Run]:
    """Returns the runs of one of several hosts; "2/4" is every fourth, from the second.

    Raises:
      ValueError: not of this form, or a host beyond the last.
    """
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", part)
    if found is None or int(found[1]) > int(found[2]):
        raise ValueError(f"got part {part!r}; expected K/N with K from 1 to N, such as 2/4.")
    return runs[int(found[1]) - 1 :: int(found[2])]


def run_all(runs: list[Run], jobs: int, chips: str | None = None) -> None:
    """Runs what is not finished; `jobs` and `chips` as for `make_shares`.

    Raises:
      ValueError: as `make_shares`.
      RuntimeError: a run failed; no further one was started. Says where its log is.
    """
    from tqdm import tqdm

    # A share of the host goes back into the queue when its run has ended.
    shares: SimpleQueue[Share] = SimpleQueue()
    for share in make_shares(jobs, chips):
        shares.put(share)
    left = [run for run in runs if not is_finished(run)]
    failed: list[Run] = []

    def one(run: Run) -> None:
        # A failure usually has a cause that the next run shares.
        if failed:
            return
        share = shares.get()
        try:
            if _call(run, share):
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


def _call(run: Run, share: Share) -> int:
    run.workdir.parent.mkdir(parents=True, exist_ok=True)
    command = run.command
    if share.cores:  # before XLA counts the cores
        pin = (
            f"import os, sys; os.sched_setaffinity(0, {share.cores}); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-c", pin, *command]
    with _log(run).open("a") as log:
        environment = os.environ | share.environment
        return subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment
        ).returncode


def _log(run: Run) -> Path:
    return run.workdir.with_suffix(".log")


def _name(config: str) -> str:
    """ "configs/emoji.py:clip" is "clip", "configs/emoji.py" is "emoji"."""
    path, _, argument = config.partition(":")
    return argument or Path(path).stem


if __name__ == "__main__":
    main()
