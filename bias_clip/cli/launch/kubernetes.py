"""A JobSet of Kubernetes: TPU slices of Google's engine, or nodes with GPUs of any cluster."""

import argparse
import json
import math
from typing import Any

from bias_clip.cli.launch.job import NEW_TOKEN, Job, Step, quote, run_all, train_command
from bias_clip.core.launching import PORT, RUN_AGAIN, TOKEN

SHIPS = "nothing"  # what the hosts get, see `check_launch`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the cluster needs to know."""
    parser.add_argument("--image", required=True, help="holds Python, bias_clip and the config")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--tpu", metavar="TYPE", help="node label, such as tpu-v5-lite-podslice")
    kind.add_argument("--gpus-per-node", type=int, help="of each node with GPUs")
    parser.add_argument("--topology", help="of one TPU slice, such as 16x16")
    parser.add_argument("--chips-per-host", type=int, default=4, help="of TPU")
    parser.add_argument("--slices", type=int, default=1, help="of TPU")
    parser.add_argument("--nodes", type=int, default=1, help="with GPUs")
    parser.add_argument("--restarts", type=int, default=10, help="after failures; 75 is free")
    parser.add_argument("--claim", help="of a volume, mounted at /data")
    parser.add_argument("--spot", action="store_true", help="Google's spot nodes")
    parser.add_argument("--namespace", default="default", help="of the JobSet")


def plan(job: Job, args: argparse.Namespace) -> list[Step]:
    """Two commands: the secret that the pods share, and the JobSet; JSON is YAML."""
    text = json.dumps(manifest(job, args), indent=2)
    make = ["kubectl", "create", "secret", "generic", _secret(job), f"--namespace={args.namespace}"]
    line = (
        f"printf %s {NEW_TOKEN} | {quote(make)} --from-file=token=/dev/stdin --dry-run=client -o json"
        " | kubectl apply -f -"
    )
    # The token goes through standard input: words of a command are seen by everyone on the machine.
    return [
        Step("make a token", ["bash", "-c", line]),
        Step("create the JobSet", ["kubectl", "apply", "-f", "-"], text),
    ]


def run(job: Job, args: argparse.Namespace) -> int:
    """Creates both."""
    return run_all(plan(job, args))


def manifest(job: Job, args: argparse.Namespace) -> dict[str, Any]:
    """The JobSet. A pod that ends with 75, or is moved away, restarts all; other failures are counted.

    Raises:
      ValueError: if the topology is missing, or its chips do not fill an integer number of hosts.
    """
    hosts = _hosts(args)
    metadata: dict[str, Any] = {"name": job.name, "namespace": args.namespace}
    if args.tpu:  # a slice is a node pool, and holds one job
        pool = "cloud.google.com/gke-nodepool"
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": pool}
    rule = {
        "name": "again",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": job.name},
            "failurePolicy": {
                "maxRestarts": args.restarts,
                "restartStrategy": "BlockingRecreate",  # all old pods gone before new ones come
                "rules": [rule],
            },
            "replicatedJobs": [
                {
                    "name": "train",
                    "replicas": args.slices if args.tpu else 1,
                    "template": {"spec": _job(job, args, hosts)},
                }
            ],
        },
    }


def _secret(job: Job) -> str:
    return f"{job.name}-token"


def _hosts(args: argparse.Namespace) -> int:
    """Of one slice, or all nodes with GPUs."""
    if not args.tpu:
        return args.nodes
    sizes = (args.topology or "").split("x")
    if not all(size.isdecimal() for size in sizes):
        raise ValueError(f"got --topology={args.topology}; expected sizes, such as 16x16 or 4x4x8.")
    chips = math.prod(map(int, sizes))
    if chips % args.chips_per_host:
        raise ValueError(
            f"{args.topology} has {chips} chips, no multiple of --chips-per-host={args.chips_per_host}."
        )
    return chips // args.chips_per_host


def _job(job: Job, args: argparse.Namespace, hosts: int) -> dict[str, Any]:
    stopped = {"containerName": "train", "operator": "In", "values": [RUN_AGAIN]}
    moved = {"type": "DisruptionTarget", "status": "True"}
    return {
        "completionMode": "Indexed",
        "parallelism": hosts,
        "completions": hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": stopped},
                {"action": "FailJob", "onPodConditions": [moved]},
            ]
        },
        "template": {"spec": _pod(job, args, hosts)},
    }


def _pod(job: Job, args: argparse.Namespace, hosts: int) -> dict[str, Any]:
    resource, number = (
        ("google.com/tpu", args.chips_per_host)
        if args.tpu
        else ("nvidia.com/gpu", args.gpus_per_node)
    )
    volumes: dict[str, dict[str, Any]] = {"/dev/shm": {"emptyDir": {"medium": "Memory"}}}
    if args.claim:
        volumes["/data"] = {"persistentVolumeClaim": {"claimName": args.claim}}
    named = {f"volume-{i}": item for i, item in enumerate(volumes.items())}
    container: dict[str, Any] = {
        "name": "train",
        "image": args.image,
        # "$" doubled, or Kubernetes puts variables in place of "$(NAME)".
        "command": [
            word.replace("$", "$$") for word in train_command(job)
        ],  # the first process of the pod, so SIGTERM reaches it
        "ports": [{"containerPort": PORT}],
        "resources": {"limits": {resource: number}},
        "volumeMounts": [{"name": n, "mountPath": path} for n, (path, _) in named.items()],
    }
    secret = {"secretKeyRef": {"name": _secret(job), "key": "token"}}
    container["env"] = [{"name": TOKEN, "valueFrom": secret}]
    if not args.tpu:  # with a TPU the engine sets its own
        first = f"{job.name}-train-0-0.{job.name}:{PORT}"
        env = {"JAX_COORDINATOR_ADDRESS": first, "JAX_NUM_PROCESSES": str(hosts)}
        container["env"] += [{"name": key, "value": value} for key, value in env.items()]
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 300,  # to save in
        "containers": [container],
        "volumes": [{"name": n, **volume} for n, (_, volume) in named.items()],
    }
    selector = {}
    if args.tpu:
        selector["cloud.google.com/gke-tpu-accelerator"] = args.tpu
        selector["cloud.google.com/gke-tpu-topology"] = args.topology
    if args.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    return pod | ({"nodeSelector": selector} if selector else {})
