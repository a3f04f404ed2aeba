"""What each of several runs side by side gets of one host: cores, and GPUs or TPU chips."""

import os
import re
from typing import NamedTuple

USED = 0.9  # of a GPU's memory, by all runs on it; the rest is for CUDA's own state of each process


class Share(NamedTuple):
    """Cores to pin a run to (none: all), and variables of its environment."""

    cores: list[int]
    environment: dict[str, str]


def make_shares(jobs: int, chips: str | None = None) -> list[Share]:
    """Splits this host among `jobs` runs.

    With as many jobs as GPUs or fewer, a job gets GPUs of its own; with more, several share one, each with
    its part of the memory. A TPU chip serves one process, so a job gets one chip.

    Args:
      jobs: number of runs side by side.
      chips: "cuda:N" or "tpu:N", N chips of this host; None leaves all that JAX finds to each run.

    Raises:
      ValueError: no or too many jobs for the cores or chips, or chips of another form.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if jobs < 1 or (jobs > 1 and jobs > len(cores)):
        raise ValueError(f"got {jobs} jobs; expected 1 to {max(1, len(cores))}, the cores at hand.")
    # A single run at a time may use all cores, and is not pinned.
    own_cores = [cores[job::jobs] if jobs > 1 else [] for job in range(jobs)]
    environments: list[dict[str, str]] = [{} for _ in range(jobs)]
    if chips is not None:
        found = re.fullmatch(r"(cuda|tpu):([1-9]\d*)", chips)
        if found is None:
            raise ValueError(f"got chips {chips!r}; expected cuda:N or tpu:N, such as cuda:8.")
        environments = (_gpus if found[1] == "cuda" else _tpus)(jobs, int(found[2]))
    return [Share(*share) for share in zip(own_cores, environments, strict=True)]


def _gpus(jobs: int, number: int) -> list[dict[str, str]]:
    # A scheduler may have given this process some GPUs of the host only, by number or by name.
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(number)] if given is None else given.split(",")[:number]
    if len(names) < number or not all(names):
        raise ValueError(
            f"got chips cuda:{number}, but CUDA_VISIBLE_DEVICES is {given!r}; "
            "expected no more GPUs than it names."
        )
    if jobs <= number:
        return [{"CUDA_VISIBLE_DEVICES": ",".join(names[job::jobs])} for job in range(jobs)]
    found = []
    for job in range(jobs):
        on_it = len(range(job % number, jobs, number))
        fraction = {"XLA_CLIENT_MEM_FRACTION": f"{USED / on_it:.3f}"}
        found.append({"CUDA_VISIBLE_DEVICES": names[job % number], **fraction})
    return found


def _tpus(jobs: int, number: int) -> list[dict[str, str]]:
    if jobs > number:
        raise ValueError(
            f"got {jobs} jobs for {number} TPU chips; a chip serves one process: "
            f"give --jobs {number} or fewer."
        )
    alone = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    return [{"TPU_VISIBLE_CHIPS": str(job), **alone} for job in range(jobs)]
