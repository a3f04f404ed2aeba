"""What all launchers share: the line that trains, and commands that are shown before they are run."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from bias_clip.core.launching import RUN_AGAIN
from bias_clip.plan.xla_flags import environment

# A shell's word: 128 random bits that all processes of a run share, see `train.hosts.rendezvous`.
NEW_TOKEN = "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')"


class Job(NamedTuple):
    """A run, wherever it is launched.

    Attributes:
      name: of the job; lower case, digits and dashes.
      config: path of the config file, as the hosts see it.
      workdir: of the run, on storage that all hosts share, or gs://bucket/folder.
      flags: further flags of bias_clip.train, such as "--config.seed=1".
      chip: whose flags of XLA are set, see `plan.xla_flags`; None: no flags.
    """

    name: str
    config: str
    workdir: str
    flags: tuple[str, ...] = ()
    chip: str | None = None


class Step(NamedTuple):
    """A command: what it is for, its words, and what it reads from its standard input, if anything."""

    what: str
    command: list[str]
    stdin: str = ""


def train_command(job: Job, python: str = "python") -> list[str]:
    """The line that every host runs. `env` replaces itself by the trainer, so signals reach it."""
    variables = {} if job.chip is None else environment(job.chip)
    env = ["env", *(f"{key}={value}" for key, value in variables.items())] if variables else []
    line = [
        *env,
        python,
        "-m",
        "bias_clip.train",
        f"--config={job.config}",
        f"--workdir={job.workdir}",
    ]
    return [*line, *job.flags]


def shown(steps: Sequence[Step]) -> str:
    """The steps as lines for a shell, which do what `run` does."""
    lines = []
    for step in steps:
        # A line break in the words must not become a command of the shell.
        lines.append("# " + step.what.replace("\n", "\n# "))
        lines.append(quote(step.command) + (_document(step.stdin) if step.stdin else ""))
    return "\n".join(lines) + "\n"


def quote(words: Sequence[str]) -> str:
    """Words as text for a shell that gives just these words back; the one place that quotes."""
    return shlex.join(words)


def _document(text: str) -> str:
    """A here-document, with an end marker that is not a line of the text."""
    end = "END"
    while end in text.splitlines():
        end += "_"
    return f" <<'{end}'\n{text.rstrip()}\n{end}"


def run(step: Step) -> int:
    """Runs the step and returns its exit status; its output is seen as it comes."""
    print(f"# {step.what}", file=sys.stderr, flush=True)
    return subprocess.run(step.command, input=step.stdin or None, text=True, check=False).returncode


def run_all(steps: Sequence[Step]) -> int:
    """Runs one after another; stops at the first that fails and returns its status."""
    for step in steps:
        if status := run(step):
            print(f"error: status {status} from: {quote(step.command)}", file=sys.stderr)
            return status
    return 0


def until_done(command: Sequence[str]) -> str:
    """A shell's loop that starts the command again as long as it ends with `RUN_AGAIN`."""
    again = f"[ $status -eq {RUN_AGAIN} ] || exit $status"
    return f"while true; do {quote(command)}; status=$?; {again}; done"
