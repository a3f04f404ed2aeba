"""Many processes as one run: how they start, and which of them speaks for all."""

import glob
import importlib.util
import os
import urllib.request
from collections.abc import Mapping

import jax
from jax._src.distributed import global_state  # nothing public says whether the service runs
from jax.experimental import multihost_utils

from bias_clip.train.hosts.cluster import Cluster, detect
from bias_clip.train.hosts.rendezvous import rendezvous

_FOREVER = 14 * 24 * 3600 * 1000  # milliseconds, which must fit an int32
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


def join(
    *,
    coordinator: str | None = None,
    process_id: int | None = None,
    process_count: int | None = None,
    wait_for_hosts: float = 300.0,
    lost_host_after: float = 100.0,
    profiler_port: int | None = None,
) -> Cluster:
    """`initialize` with what the command line and the environment say; call it before any device.

    Args:
      coordinator: host:port of process 0; None: what a launcher says.
      process_id: of this process, from 0; or None.
      process_count: of all hosts; or None.
      wait_for_hosts, lost_host_after: as `initialize`.
      profiler_port: where `jax.collect_profile` connects; None: nowhere.
    """
    cluster = detect(
        os.environ,
        coordinator=coordinator,
        process_id=process_id,
        process_count=process_count,
        metadata=_metadata if _on_tpu_vm(os.environ) else None,
    )
    initialize(cluster, wait_for_hosts=wait_for_hosts, lost_host_after=lost_host_after)
    if profiler_port is not None:
        jax.profiler.start_server(profiler_port)
    return cluster


def initialize(
    cluster: Cluster, *, wait_for_hosts: float = 300.0, lost_host_after: float = 100.0
) -> None:
    """Joins the processes: afterwards `jax.devices()` are those of all hosts.

    A process that goes silent later (killed, its host lost, its network cut) ends all others with an
    error, within `lost_host_after` and what a collective takes to notice.

    Args:
      cluster: from `detect`; with one process nothing happens.
      wait_for_hosts: seconds until a process that has not come is an error.
      lost_host_after: seconds without a sign of life after which a process counts as lost.

    Raises:
      TimeoutError: if a process did not come; names it.
      ValueError: if the processes contradict each other.
    """
    if cluster.process_count == 1:
        return
    rendezvous(cluster, timeout=wait_for_hosts)
    jax.distributed.initialize(
        coordinator_address=cluster.coordinator,
        num_processes=cluster.process_count,
        process_id=cluster.process_id,
        cluster_detection_method="deactivate",  # what we detected holds, and all local devices
        initialization_timeout=round(wait_for_hosts),
        heartbeat_timeout_seconds=round(lost_host_after),
        shutdown_timeout_seconds=round(lost_host_after),
    )


def wait_for_all(name: str) -> None:
    """Returns once all processes have called it with this name; with one process at once.

    The wait has no deadline of its own. A process that is lost meanwhile ends all others, as in
    `initialize`; one that is busy, for however long, ends none.
    """
    if global_state.client is not None:
        global_state.client.wait_at_barrier(name, _FOREVER)


def check_same(name: str, value: str, *, advice: str) -> None:
    """Compares a text with that of process 0; all processes call it with the same name.

    Args:
      name: of what is compared, for the error too.
      value: of this process.
      advice: what to do where they differ.

    Raises:
      ValueError: this process has another value; shows both.
    """
    client = global_state.client
    if client is None:
        return
    if is_main():
        client.key_value_set(f"check_same/{name}", value, allow_overwrite=True)
    expected = client.blocking_key_value_get(f"check_same/{name}", _FOREVER)
    if value != expected:
        raise ValueError(
            f"{name} of process {jax.process_index()} is {value}, but that of process 0 is {expected}; "
            f"{advice}"
        )


def is_main() -> bool:
    """Whether this process writes what all agree on: metrics, results, the report."""
    return jax.process_index() == 0


def asked_to_stop(step: int) -> bool:
    """Whether to save and end after `step`: True on all hosts at the same one.

    Some steps before, at least one host got SIGTERM, which jax's coordination service passed on.
    With one process it is always False: there the loop catches the signal itself. So it is where
    `JAX_ENABLE_PREEMPTION_SERVICE=0` turned the service off: asking it would be an error.
    """
    if global_state.preemption_sync_manager is None:
        return False
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def _on_tpu_vm(environ: Mapping[str, str]) -> bool:
    """Whether there is a TPU to see and a metadata server to ask; looks at files alone."""
    if "TPU_SKIP_MDS_QUERY" in environ or "tpu" not in environ.get("JAX_PLATFORMS", "tpu"):
        return False
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _metadata(attribute: str) -> str:
    request = urllib.request.Request(_METADATA + attribute, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=10.0) as answer:
            return answer.read().decode()
    except OSError as error:
        raise ValueError(
            f"this host has a TPU, but its metadata server does not tell {attribute} ({error}); give "
            "--process_count=1, or --coordinator, --process_id and --process_count."
        ) from error
