"""The number of this process and of all processes, read from the launcher's environment variables."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bias_clip.core.launching import PORT

# Our launchers set these three, and others may too; jax itself also reads the first.
ADDRESS, COUNT, ID = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_INDEX = "JOB_COMPLETION_INDEX"  # Kubernetes gives it to each pod of an indexed Job


class Cluster(NamedTuple):
    """One process among those of a run.

    Attributes:
      coordinator: "host:port" of process 0; None if there is one process.
      process_id: 0 to process_count - 1.
      process_count: of all hosts; one drives all devices of its host.
      kind: where this was read: "one", "flags", "environment", "kubernetes", "ray", "slurm", "tpu"
        (hosts named in the environment) or "tpu_vm" (hosts named by the metadata server).
      hosts: names in the order of process ids, or empty if they are not known.
    """

    coordinator: str | None
    process_id: int
    process_count: int
    kind: str
    hosts: tuple[str, ...] = ()


ONE = Cluster(None, 0, 1, "one")


def detect(
    environ: Mapping[str, str],
    *,
    coordinator: str | None = None,
    process_id: int | None = None,
    process_count: int | None = None,
    metadata: Callable[[str], str] | None = None,
) -> Cluster:
    """Returns what the arguments say, or else the environment, or else a cluster of one process.

    Pure: it makes no network call and waits for no other process.

    Args:
      environ: as `os.environ`.
      coordinator: "host:port" of process 0. The three come together, or `process_count=1` alone.
      process_id: of this process.
      process_count: of all.
      metadata: returns an attribute of the machine, on a TPU VM (`agent-worker-number`,
        `worker-network-endpoints`, `tpu-env`); None elsewhere.

    Raises:
      ValueError: if settings are incomplete, not integers, out of range, or contradict each other.
    """
    if any(value is not None for value in (coordinator, process_id, process_count)):
        return _from_flags(coordinator, process_id, process_count)
    made = [_from_environment(environ), _from_tpu(environ, "tpu"), _from_slurm(environ)]
    found = [cluster for cluster in made if cluster is not None]
    if not found and metadata is not None:
        found = [c for c in [_from_tpu(_tpu_variables(metadata), "tpu_vm")] if c is not None]
    if not found and _INDEX in environ:
        raise ValueError(
            f"{_INDEX}={environ[_INDEX]} says that this pod is one of an indexed Job, but {ADDRESS} "
            f"and {COUNT} are not set, so it cannot find the others. Set them (tools/launch does), or "
            "give --process_count=1 if each pod is to train by itself."
        )
    places = {(c.process_id, c.process_count) for c in found if c.process_count > 1}
    if len(places) > 1:
        said = ", ".join(f"{c.kind}: process {c.process_id} of {c.process_count}" for c in found)
        raise ValueError(
            f"the environment contradicts itself ({said}); give the right values with --coordinator, "
            "--process_id and --process_count."
        )
    many = [cluster for cluster in found if cluster.process_count > 1]
    return many[0] if many else ONE


def _from_flags(coordinator: str | None, process_id: int | None, count: int | None) -> Cluster:
    if count == 1 and coordinator is None and process_id in (None, 0):
        return ONE
    given = {"coordinator": coordinator, "process_id": process_id, "process_count": count}
    if missing := [f"--{name}" for name, value in given.items() if value is None]:
        raise ValueError(
            f"got {given} without {', '.join(missing)}; give all three: the same --coordinator and "
            "--process_count on every host, and a different --process_id on each."
        )
    return _checked(Cluster(coordinator, int(process_id or 0), int(count or 0), "flags"))


def _from_environment(environ: Mapping[str, str]) -> Cluster | None:
    """From our launchers for Ray and GPU nodes of Kubernetes, or others that set the same variables."""
    present = [key for key in (ADDRESS, COUNT, ID) if key in environ]
    if not present or (present == [ADDRESS] and _INDEX not in environ):
        return None  # alone it is jax's own setting: another source says the rest
    place = ID if ID in environ else _INDEX
    _need(environ, (ADDRESS, COUNT, place), "environment")
    kind = "ray" if "RAY_JOB_ID" in environ else "environment"
    if _INDEX in environ:
        kind = "kubernetes"
        if _number(environ, place) != _number(environ, _INDEX):
            raise ValueError(
                f"{ID}={environ[ID]} contradicts {_INDEX}={environ[_INDEX]}; unset the former."
            )
    return _checked(
        Cluster(environ[ADDRESS], _number(environ, place), _number(environ, COUNT), kind)
    )


def _from_tpu(environ: Mapping[str, str], kind: str) -> Cluster | None:
    """From the variables that Kubernetes Engine sets in a TPU's pods; several slices form one cluster."""
    names = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if names is None and "TPU_WORKER_ID" not in environ:
        return None
    if names is None:
        raise ValueError(
            "TPU_WORKER_ID is set and TPU_WORKER_HOSTNAMES is not; set both or neither."
        )
    _need(environ, ("TPU_WORKER_ID",), kind)
    hosts = tuple(name.strip().rsplit(":", 1)[0] for name in names.split(","))
    place, count, first = _number(environ, "TPU_WORKER_ID"), len(hosts), hosts[0]
    slices = _number(environ, "MEGASCALE_NUM_SLICES") if "MEGASCALE_NUM_SLICES" in environ else 1
    if slices > 1:
        _need(environ, ("MEGASCALE_SLICE_ID", "MEGASCALE_COORDINATOR_ADDRESS"), kind)
        place += count * _number(environ, "MEGASCALE_SLICE_ID")
        first = environ["MEGASCALE_COORDINATOR_ADDRESS"].partition(":")[0]
        count, hosts = count * slices, ()
    return _checked(Cluster(f"{first}:{PORT}", place, count, kind, hosts))


def _tpu_variables(metadata: Callable[[str], str]) -> dict[str, str]:
    """What the metadata server of a TPU VM says, under the names of the environment variables."""
    endpoints = [e.split(":") for e in metadata("worker-network-endpoints").strip().split(",")]
    lines = (line.partition(":") for line in metadata("tpu-env").splitlines())
    settings = {key.strip(): value.strip().strip("'\"") for key, _, value in lines}
    wanted = [key for key in settings if key.startswith("MEGASCALE_")]
    return {key: settings[key] for key in wanted} | {
        "TPU_WORKER_ID": metadata("agent-worker-number").strip(),
        # A name, or "name:number:address".
        "TPU_WORKER_HOSTNAMES": ",".join(e[2] if len(e) == 3 else e[0] for e in endpoints),
    }


def _from_slurm(environ: Mapping[str, str]) -> Cluster | None:
    if "SLURM_JOB_ID" not in environ or environ.get("SLURM_NTASKS", "1") == "1":
        return None
    if "SLURM_STEP_NODELIST" not in environ:
        raise ValueError(
            f"this is a SLURM job of {environ['SLURM_NTASKS']} tasks, but not one of them: start "
            "with srun (tools/launch writes such a script), or give --process_count=1."
        )
    _need(environ, ("SLURM_PROCID",), "slurm")
    hosts = _expand(environ["SLURM_STEP_NODELIST"])
    count = _number(environ, "SLURM_NTASKS")
    visible = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if count > len(hosts) and len(visible) > 1:
        raise ValueError(
            f"{count} tasks on {len(hosts)} nodes, and each sees {len(visible)} GPUs; expected one "
            "task per node (--ntasks-per-node=1), which drives them all, or one GPU per task."
        )
    # Jobs that share a node need different ports.
    port = 20_000 + int(environ["SLURM_JOB_ID"]) % 10_000
    names = hosts if count == len(hosts) else ()
    place = _number(environ, "SLURM_PROCID")
    return _checked(Cluster(f"{hosts[0]}:{port}", place, count, "slurm", names))


def _expand(nodes: str) -> tuple[str, ...]:
    """Names of a SLURM list: "a[1-2,07],b" is a1, a2, a07 and b."""
    names: list[str] = []
    for prefix, ranges, suffix in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?([^,\[\]]*)", nodes):
        for part in ranges.split(",") if ranges else [""]:
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last) + 1) if last else [first]
            names += [f"{prefix}{str(n).zfill(len(first))}{suffix}" for n in numbers]
    return tuple(names)


def _need(environ: Mapping[str, str], keys: tuple[str, ...], kind: str) -> None:
    if missing := [key for key in keys if not environ.get(key)]:
        there = [key for key in keys if environ.get(key)]
        raise ValueError(
            f"{kind}: {', '.join(missing)} is not set, though {', '.join(there) or 'another one'} is; "
            "set all of them, or give --coordinator, --process_id and --process_count."
        )


def _number(environ: Mapping[str, str], key: str) -> int:
    if not environ[key].isdecimal():
        raise ValueError(f"got {key}={environ[key]!r}; expected an integer, 0 or more.")
    return int(environ[key])


def _checked(cluster: Cluster) -> Cluster:
    if not 0 <= cluster.process_id < cluster.process_count:
        raise ValueError(
            f"{cluster.kind}: got process {cluster.process_id} of {cluster.process_count}; expected an "
            "id from 0 to one less than the count."
        )
    host, _, port = str(cluster.coordinator).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(
            f"{cluster.kind}: got coordinator {cluster.coordinator!r}; expected host:port of process 0."
        )
    return cluster
