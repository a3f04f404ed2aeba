"""Launches a run on many hosts. Shows what it would do; does it with --run.

    bias-clip launch slurm --name=siglip --config=configs/siglip_b16.py --workdir=/data/siglip \\
        --nodes=4 -- --config.seed=1

Where: tpu_vm, kubernetes, slurm, ray; each has arguments of its own, see
`bias-clip launch WHERE --help`. What follows -- goes to bias_clip.train as it is. After exit
status 75 (stopped by a signal, all saved) the run is started again; docs/pods.md is the runbook.
"""

import argparse
import sys

from bias_clip.cli.launch import kubernetes, ray, slurm, tpu_vm
from bias_clip.cli.launch.checks import check_launch
from bias_clip.cli.launch.job import Job, shown
from bias_clip.cli.shared.flags import Parser, in_one_line
from bias_clip.plan.xla_flags import FLAGS

WHERE = {"tpu_vm": tpu_vm, "kubernetes": kubernetes, "slurm": slurm, "ray": ray}


def main(argv: list[str] | None = None) -> int:
    """Shows, or runs; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    # Taken apart before argparse: what follows "--" is the trainer's, whatever it looks like.
    split = argv.index("--") if "--" in argv else len(argv)
    args = make_parser().parse_args(argv[:split])
    job = Job(args.name, args.config, args.workdir, tuple(argv[split + 1 :]), args.xla_flags)
    return in_one_line(lambda: _launch(job, args), errors=(RuntimeError,)) or 0


def _launch(job: Job, args: argparse.Namespace) -> int:
    where = WHERE[args.where]
    # All checks before the plan: a dry run shows a launch that would work.
    check_launch(job, args, ships=where.SHIPS)
    steps = where.plan(job, args)
    if args.run:
        return where.run(job, args)
    print(shown(steps), end="")
    return 0


def make_parser() -> Parser:
    """Returns the parser, with a command per place."""
    parser = Parser(description=__doc__)
    places = parser.add_subparsers(dest="where", required=True)
    for name, module in WHERE.items():
        own = places.add_parser(name, help=module.__doc__, description=module.__doc__)
        own.add_argument("--name", required=True, help="of the job")
        own.add_argument("--config", required=True, metavar="FILE", help="as the hosts see it")
        own.add_argument(
            "--workdir", required=True, metavar="DIR", help="on storage that all hosts share"
        )
        own.add_argument(
            "--xla-flags",
            choices=sorted(FLAGS),
            metavar="CHIP",
            help=f"set the flags of XLA for {', '.join(sorted(FLAGS))}, see docs/pods.md",
        )
        what = own.add_mutually_exclusive_group()
        what.add_argument("--dry-run", action="store_true", help="only show it, as without --run")
        what.add_argument("--run", action="store_true", help="do it")
        module.add_arguments(own)
    return parser


if __name__ == "__main__":
    sys.exit(main())
