"""A job of SLURM: one task per node, which drives all its GPUs."""

import argparse

from bias_clip.cli.launch.job import NEW_TOKEN, Job, Step, quote, run_all, train_command
from bias_clip.core.launching import RUN_AGAIN, TOKEN

SHIPS = "folder"  # what the hosts get, see `check_launch`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what SLURM needs to know."""
    parser.add_argument("--nodes", type=int, required=True, help="that train")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="of each")
    parser.add_argument("--cpus-per-task", type=int, default=32, help="threads that decode, mostly")
    parser.add_argument("--time", default="24:00:00", help="limit; the job queues again at its end")
    parser.add_argument("--partition", help="of the cluster")
    parser.add_argument("--account", help="that pays")
    parser.add_argument("--grace", type=int, default=120, help="seconds to save before the limit")
    parser.add_argument(
        "--setup", default="", help="a shell line before, e.g. source .venv/bin/activate"
    )


def plan(job: Job, args: argparse.Namespace) -> list[Step]:
    """The one command: sbatch reads the script."""
    return [Step("submit; the log is <name>_<job>.log here", ["sbatch"], script(job, args))]


def run(job: Job, args: argparse.Namespace) -> int:
    """Submits."""
    return run_all(plan(job, args))


def script(job: Job, args: argparse.Namespace) -> str:
    """The batch script. SIGTERM before the limit, then status 75, then the job queues itself again."""
    options = {
        "job-name": job.name,
        "nodes": args.nodes,
        # One process per node drives all its GPUs.
        "ntasks-per-node": 1,
        "gpus-per-node": args.gpus_per_node,
        "cpus-per-task": args.cpus_per_task,
        "time": args.time,
        "signal": f"TERM@{args.grace}",  # to the tasks, not to this script
        "output": f"{job.name}_%j.log",
        # A job that was queued again goes on in the same log.
        "open-mode": "append",
        "partition": args.partition,
        "account": args.account,
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in options.items() if value is not None]
    # srun does not hand the script's --cpus-per-task on by itself.
    srun = f"srun --cpus-per-task={args.cpus_per_task} {quote(train_command(job))}"
    ending = [
        "status=$?  # the highest of all tasks",
        f'if [ $status -eq {RUN_AGAIN} ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        "exit $status",
    ]
    # Made on the first node, which hands its environment to all tasks; this text holds no secret.
    setup = [f"export {TOKEN}={NEW_TOKEN}", *([args.setup] if args.setup else [])]
    return "\n".join(["#!/bin/bash", *lines, "#SBATCH --requeue", *setup, srun, *ending]) + "\n"
