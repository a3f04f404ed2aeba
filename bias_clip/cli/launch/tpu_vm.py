"""TPU VMs of Google Cloud: asks for a slice, puts this commit on all its hosts, trains on them."""

import argparse
import subprocess
import time

from bias_clip.cli.launch.job import (
    NEW_TOKEN,
    Job,
    Step,
    quote,
    run_all,
    train_command,
    until_done,
)
from bias_clip.cli.launch.job import run as run_step
from bias_clip.core.launching import TOKEN

_GONE = ("SUSPENDED", "SUSPENDING", "FAILED")
_POLL = 30.0  # seconds

SHIPS = "commit"  # what the hosts get, see `check_launch`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what gcloud needs to know."""
    parser.add_argument("--zone", required=True, help="such as europe-west4-b")
    parser.add_argument("--project", help="default: gcloud's own")
    parser.add_argument("--accelerator", required=True, help="such as v5litepod-256")
    parser.add_argument("--runtime", required=True, help="such as v2-alpha-tpuv5-lite")
    parser.add_argument("--slices", type=int, default=1, help="of that size")
    parser.add_argument("--spot", action="store_true", help="cheaper, and taken away at times")
    parser.add_argument("--setup", default="true", help="a shell line on each host, e.g. a mount")
    parser.add_argument("--python", default="python3", help="3.11 or later, on the hosts")


def plan(job: Job, args: argparse.Namespace) -> list[Step]:
    """All steps in order; `run` repeats them when the slice has been taken away."""
    wait = f'until [ "$({quote(_describe(job, args))})" = ACTIVE ]; do sleep {_POLL:.0f}; done'
    return [create(job, args), Step("wait for it", ["bash", "-c", wait]), *_rest(job, args)]


def run(job: Job, args: argparse.Namespace) -> int:
    """Runs the steps; requests a slice again after it was taken away, until training ends.

    gcloud does not report the exit status of each host. So each host starts itself again after status
    75, and this function only checks whether the slice still exists.
    """
    while True:
        state = _state(job, args)
        if state in _GONE:
            if status := run_step(delete(job, args)):
                return status
            state = ""
        if not state and (status := run_step(create(job, args))):
            return status
        while (state := _state(job, args)) != "ACTIVE" and state not in _GONE:
            time.sleep(_POLL)
        if state == "ACTIVE":
            status = run_all(_rest(job, args))
            # The slice still stands, so the trainer itself failed: asking for another one would not help.
            if status == 0 or _state(job, args) == "ACTIVE":
                return status


def create(job: Job, args: argparse.Namespace) -> Step:
    """Asks for the slices."""
    nodes = (
        [f"--node-id={job.name}"]
        if args.slices == 1
        else [f"--node-count={args.slices}", f"--node-prefix={job.name}"]
    )
    wanted = [f"--accelerator-type={args.accelerator}", f"--runtime-version={args.runtime}"]
    spot = ["--spot"] if args.spot else []
    return Step("ask for the slice", _gcloud("create", job, args, *nodes, *wanted, *spot))


def delete(job: Job, args: argparse.Namespace) -> Step:
    """Gives back what is left of it."""
    return Step("give back", _gcloud("delete", job, args, "--force", "--quiet"))


def _rest(job: Job, args: argparse.Namespace) -> list[Step]:
    archive, token = f"{job.name}.tar.gz", f"{job.name}.token"
    everywhere = ["--worker=all", "--node=all"]
    copy = ["gcloud", "compute", "tpus", "queued-resources", "scp", archive, token]
    copy.append(f"{job.name}:")
    install = (
        f"mkdir -p bias_clip && tar -xzf {archive} -C bias_clip && cd bias_clip && "
        f"{quote(['bash', '-c', args.setup])} && "  # whole, whatever it holds
        f"{quote([args.python])} -m venv .venv && .venv/bin/pip install -q -e '.[train,tpu]' -c constraints.txt"
    )
    # From a file: the words of a command are seen by everyone on a host.
    known = f"export {TOKEN}=$(cat ~/{token})"
    train = f"{known} && cd bias_clip && {until_done(train_command(job, '.venv/bin/python'))}"
    return [
        Step("pack this commit", ["git", "archive", "--format=tar.gz", "-o", archive, "HEAD"]),
        Step("make a token", ["bash", "-c", f"umask 077 && echo {NEW_TOKEN} > {token}"]),
        Step("copy both to all hosts", [*copy, *_where(args), *everywhere]),
        Step("install it", _gcloud("ssh", job, args, *everywhere, f"--command={install}")),
        Step("train", _gcloud("ssh", job, args, *everywhere, f"--command={train}")),
    ]


def _describe(job: Job, args: argparse.Namespace) -> list[str]:
    return _gcloud("describe", job, args, "--format=value(state.state)")


def _state(job: Job, args: argparse.Namespace) -> str:
    """ "" if there is no such resource."""
    found = subprocess.run(_describe(job, args), capture_output=True, text=True, check=False)
    # Any other error, such as a lost login, must not look as if the slice were gone and be paid for twice.
    if found.returncode and "NOT_FOUND" not in found.stderr:
        raise RuntimeError(f"gcloud: {found.stderr.strip()}")
    return found.stdout.strip()


def _gcloud(verb: str, job: Job, args: argparse.Namespace, *flags: str) -> list[str]:
    line = ["gcloud", "compute", "tpus", "queued-resources", verb, job.name]
    return [*line, *_where(args), *flags]


def _where(args: argparse.Namespace) -> list[str]:
    return [f"--zone={args.zone}", *([f"--project={args.project}"] if args.project else [])]
