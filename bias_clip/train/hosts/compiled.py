"""Where compiled programs are kept, so that the same step is compiled once and not at every start."""

import hashlib
import os
import platform
from pathlib import Path

import jax

from bias_clip.core.storage import absolute

MIN_SECONDS = 0.1
"""Programs that compile faster are not kept; JAX's own limit of 1 s leaves out half of a small run."""


def keep_compiled(workdir: Path, backend: str, device_count: int) -> None:
    """Keeps compiled programs on disk, unless `JAX_COMPILATION_CACHE_DIR` names another place.

    On GPUs and TPUs in the workdir, which all hosts of a run see. On a CPU in the user's cache folder,
    for all workdirs together: a folder per kind of processor, because code that was compiled for one
    processor may use instructions that another one lacks. Of several CPU devices nothing is kept.

    Args:
      workdir: of the run.
      backend: "cpu", "gpu" or "tpu".
      device_count: devices of all hosts.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    if backend == "cpu" and device_count > 1:
        # Read back from disk, a program for eight CPU devices hung in about one of three runs with
        # jax 0.10.2: two devices waited in a collective permute, six in an all-reduce.
        return
    if backend == "cpu":
        folder = user_cache() / f"compiled-{processor_key()}"
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    else:
        folder = Path(absolute(workdir)) / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))


def user_cache() -> Path:
    """This package's folder in the user's cache, `$XDG_CACHE_HOME` or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bias_clip"


def processor_key(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """A short name of the processor's instruction sets, different where compiled code may not run.

    Args:
      cpuinfo: Linux's description; elsewhere the machine's own name for its processor is used.
    """
    what = [platform.machine(), platform.processor()]
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        # "flags" on x86, "Features" on Arm. The order differs between kernels, the set does not.
        flags = [x.partition(":")[2] for x in lines if x.startswith(("flags", "Features"))]
        what += sorted({flag for line in flags for flag in line.split()})
    return hashlib.sha256(" ".join(what).encode()).hexdigest()[:12]
