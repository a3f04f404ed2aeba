"""What all launchers share: the line that trains, and commands that are shown before they are run."""

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from bias_clip.core.storage import check_address

RUN_AGAIN = (
    75  # exit status of bias_clip.train after a signal: state saved, start the same line again
)


class Job(NamedTuple):
    """A run, wherever it is launched.

    Attributes:
      name: of the job; lower case, digits and dashes.
      config: path of the config file, as the hosts see it.
      workdir: of the run, on storage that all hosts share, or gs://bucket/folder.
      flags: further flags of bias_clip.train, such as "--config.seed=1".
    """

    name: str
    config: str
    workdir: str
    flags: tuple[str, ...] = ()


class Step(NamedTuple):
    """A command: what it is for, its words, and what it reads from its standard input, if anything."""

    what: str
    command: list[str]
    stdin: str = ""


def train_command(job: Job, python: str = "python") -> list[str]:
    """The line that every host runs.

    Raises:
      ValueError: for a name that clusters refuse, or a workdir that is neither a folder nor in a bucket.
    """
    check_address(job.workdir)
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", job.name):
        raise ValueError(
            f"got the name {job.name!r}; expected at most 40 of a-z, 0-9 and -, from a letter on."
        )
    line = [python, "-m", "bias_clip.train", f"--config={job.config}", f"--workdir={job.workdir}"]
    return [*line, *job.flags]


def shown(steps: Sequence[Step]) -> str:
    """The steps as lines for a shell, which do what `run` does."""
    lines = []
    for step in steps:
        lines.append(f"# {step.what}")
        line = shlex.join(step.command)
        lines.append(f"{line} <<'END'\n{step.stdin.rstrip()}\nEND" if step.stdin else line)
    return "\n".join(lines) + "\n"


def run(step: Step) -> int:
    """Runs the step and returns its exit status; its output is seen as it comes."""
    print(f"# {step.what}", file=sys.stderr, flush=True)
    return subprocess.run(step.command, input=step.stdin or None, text=True, check=False).returncode


def run_all(steps: Sequence[Step]) -> int:
    """Runs one after another; stops at the first that fails and returns its status."""
    for step in steps:
        if status := run(step):
            print(f"error: status {status} from: {shlex.join(step.command)}", file=sys.stderr)
            return status
    return 0


def until_done(command: Sequence[str]) -> str:
    """A shell's loop that starts the command again as long as it ends with `RUN_AGAIN`."""
    again = f"[ $status -eq {RUN_AGAIN} ] || exit $status"
    return f"while true; do {shlex.join(command)}; status=$?; {again}; done"
