"""Many processes as one run: the flags of it, the start, and who speaks for all."""

import glob
import importlib.util
import os
import urllib.request
from collections.abc import Mapping

import jax
from absl import flags
from jax.experimental import multihost_utils

from bias_clip.train.hosts.cluster import Cluster, detect
from bias_clip.train.hosts.rendezvous import roll_call

_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


def define_flags() -> None:
    """Defines the flags of `initialize_from_flags`; all are optional."""
    flags.DEFINE_string("coordinator", None, "host:port of process 0, where no launcher says it.")
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0.", lower_bound=0)
    flags.DEFINE_integer("process_count", None, "Of all hosts; 1: alone.", lower_bound=1)
    flags.DEFINE_float("wait_for_hosts", 300.0, "Seconds to wait for all at the start.", 1.0)
    flags.DEFINE_float("lost_host_after", 100.0, "Seconds of silence that end the run.", 5.0)
    flags.DEFINE_integer("profiler_port", None, "Listen for jax.collect_profile.", lower_bound=1)


def initialize_from_flags() -> Cluster:
    """`initialize` with the values of the flags and the environment; call it before any device."""
    values = flags.FLAGS
    cluster = detect(
        os.environ,
        coordinator=values.coordinator,
        process_id=values.process_id,
        process_count=values.process_count,
        metadata=_metadata if _on_tpu_vm(os.environ) else None,
    )
    initialize(
        cluster, wait_for_hosts=values.wait_for_hosts, lost_host_after=values.lost_host_after
    )
    if values.profiler_port is not None:
        jax.profiler.start_server(values.profiler_port)
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
    roll_call(cluster, timeout=wait_for_hosts)
    jax.distributed.initialize(
        coordinator_address=cluster.coordinator,
        num_processes=cluster.process_count,
        process_id=cluster.process_id,
        cluster_detection_method="deactivate",  # what we detected holds, and all local devices
        initialization_timeout=round(wait_for_hosts),
        heartbeat_timeout_seconds=round(lost_host_after),
        shutdown_timeout_seconds=round(lost_host_after),
    )


def is_main() -> bool:
    """Whether this process writes what all agree on: metrics, results, the report."""
    return jax.process_index() == 0


def asked_to_stop(step: int) -> bool:
    """Whether to save and end after `step`: True on all hosts at the same one.

    Some steps before, at least one host got SIGTERM, which jax's coordination service passed on.
    With one process it is always False: there the loop catches the signal itself.
    """
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
