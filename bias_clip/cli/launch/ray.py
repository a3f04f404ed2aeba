"""A job of Ray: this file is also the job's driver, with one actor per host, which runs the trainer."""

import argparse
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.parse
from typing import Any

from bias_clip.cli.launch.job import Job, Step, quote, run_all, train_command
from bias_clip.cli.shared.flags import Parser
from bias_clip.core.launching import RUN_AGAIN, TOKEN

_PR_SET_PDEATHSIG = 1  # of Linux: what a process gets when the one that started it is gone

SHIPS = "folder"  # what the hosts get, see `check_launch`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what Ray needs to know."""
    parser.add_argument("--address", default="http://127.0.0.1:8265", help="of Ray's dashboard")
    parser.add_argument("--hosts", type=int, required=True, help="of the cluster, that train")
    parser.add_argument("--resource", required=True, help="a host's, such as TPU=4 or GPU=8")
    parser.add_argument("--restarts", type=int, default=10, help="after failures; 75 is free")


def plan(job: Job, args: argparse.Namespace) -> list[Step]:
    """The one command; Ray carries this folder along."""
    _bundle(args.resource)
    line = train_command(job)
    submit = ["ray", "job", "submit", f"--address={args.address}", "--working-dir=."]
    drive = ["python", "-m", "bias_clip.cli.launch.ray", f"--hosts={args.hosts}"]
    drive += [
        f"--resource={args.resource}",
        f"--restarts={args.restarts}",
        f"--line={encode(line)}",
    ]
    return [Step(f"submit: {quote(line)}", [*submit, "--", *drive])]


def encode(words: list[str]) -> str:
    """Words as one word without any that a shell reads: versions of Ray quote differently."""
    return urllib.parse.quote(json.dumps(words), safe="")


def decode(text: str) -> list[str]:
    """What `encode` was given."""
    return json.loads(urllib.parse.unquote(text))


def run(job: Job, args: argparse.Namespace) -> int:
    """Submits and shows the log."""
    return run_all(plan(job, args))


def places(hosts: list[tuple[str, str, int]]) -> list[dict[str, str]]:
    """The variables of each host, in the order given, from its (address, TPU worker number, port).

    Numbers follow the TPU's own where there are any, else the order given; the coordinator is the
    first host's address and port.
    """
    # Without a TPU all worker numbers are 0, and the order given decides.
    order = sorted(range(len(hosts)), key=lambda i: (int(hosts[i][1] or 0), i))
    address, _, port = hosts[order[0]]
    common = {"JAX_COORDINATOR_ADDRESS": f"{address}:{port}", "JAX_NUM_PROCESSES": str(len(hosts))}
    return [common | {"JAX_PROCESS_ID": str(order.index(i))} for i in range(len(hosts))]


def drive(command: list[str], *, hosts: int, resource: str, restarts: int) -> int:
    """Runs the command on all hosts; again after 75, and after up to `restarts` failures."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    ray.init()
    bundle = {"CPU": 1.0, **_bundle(resource)}
    wanted = {"num_gpus" if key == "GPU" else key: n for key, n in bundle.items() if key != "CPU"}
    options: dict[str, Any] = {"num_cpus": 1, "num_gpus": wanted.pop("num_gpus", 0)}
    while True:
        # One actor per host: the trainer drives all its accelerators.
        group = placement_group([bundle] * hosts, strategy="STRICT_SPREAD")
        ray.get(group.ready())
        make = ray.remote(_Host).options
        actors = [
            make(
                **options,
                resources=wanted,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=i
                ),
            ).remote()
            for i in range(hosts)
        ]
        try:
            there = ray.get([actor.where.remote() for actor in actors])
            token = {TOKEN: secrets.token_hex(16)}  # of this start alone
            runs = [
                a.train.remote(command, env | token)
                for a, env in zip(actors, places(there), strict=True)
            ]
            ray.wait(runs, num_returns=hosts)  # without the lost one, the others end too
            # The largest: 0 only if all hosts ended well.
            status = max(ray.get(runs))
        except ray.exceptions.RayError as error:
            print(f"a host is lost: {error}", file=sys.stderr)
            status = 1
        remove_placement_group(group)  # and with it the actors
        if status == 0 or (status != RUN_AGAIN and restarts == 0):
            return status
        # A stop by a signal, after which all is saved, costs no restart.
        restarts -= status != RUN_AGAIN


class _Host:
    """The actor of one host."""

    def where(self) -> tuple[str, str, int]:
        import ray

        with socket.socket() as probe:
            # Port 0: the system chooses a free one. Between closing and use another process could take it.
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        return ray.util.get_node_ip_address(), os.environ.get("TPU_WORKER_ID", ""), port

    def train(self, command: list[str], environ: dict[str, str]) -> int:
        """Status; that of a process which a signal ended is 128 and its number, as in a shell."""
        status = subprocess.run(
            command, env=os.environ | environ, check=False, preexec_fn=_end_with_parent
        ).returncode
        return status if status >= 0 else 128 - status


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _bundle(resource: str) -> dict[str, float]:
    name, _, number = resource.partition("=")
    if not name or not number.isdecimal():
        raise ValueError(f"got --resource={resource}; expected a name and a number, such as TPU=4.")
    return {name: float(number)}


def main() -> None:
    """The driver, inside the cluster."""
    parser = Parser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--line", type=decode, required=True, help="what each host runs, encoded")
    args = parser.parse_args()
    sys.exit(drive(args.line, hosts=args.hosts, resource=args.resource, restarts=args.restarts))


if __name__ == "__main__":
    main()
