"""Launches a run on many hosts. Shows what it would do; does it with --run.

python -m tools.launch slurm --name=siglip --config=configs/siglip_b16.py --workdir=/data/siglip \\
    --nodes=4 [--run] [-- --config.seed=1]

Where: tpu_vm, kubernetes, slurm, ray; each has arguments of its own, see
`python -m tools.launch WHERE --help`. What follows -- goes to bias_clip.train as it is. After exit
status 75 (stopped by a signal, all saved) the run is started again; docs/pods.md is the runbook.
"""

import argparse
import sys

from bias_clip.cli.launch import kubernetes, ray, slurm, tpu_vm
from bias_clip.cli.launch.job import Job, shown

WHERE = {"tpu_vm": tpu_vm, "kubernetes": kubernetes, "slurm": slurm, "ray": ray}


def main(argv: list[str] | None = None) -> int:
    """Shows, or runs; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    split = argv.index("--") if "--" in argv else len(argv)
    args = _parser().parse_args(argv[:split])
    job = Job(args.name, args.config, args.workdir, tuple(argv[split + 1 :]))
    where = WHERE[args.where]
    try:
        steps = where.plan(job, args)
        if args.run:
            return where.run(job, args)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(shown(steps), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m tools.launch", description=__doc__, formatter_class=formatter
    )
    places = parser.add_subparsers(dest="where", required=True)
    for name, module in WHERE.items():
        own = places.add_parser(name, description=module.__doc__)
        own.add_argument("--name", required=True, help="of the job")
        own.add_argument("--config", required=True, help="as the hosts see it")
        own.add_argument("--workdir", required=True, help="on storage that all hosts share")
        what = own.add_mutually_exclusive_group()
        what.add_argument("--dry-run", action="store_true", help="only show it (the default)")
        what.add_argument("--run", action="store_true", help="do it")
        module.add_arguments(own)
    return parser


if __name__ == "__main__":
    sys.exit(main())
