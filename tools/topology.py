"""Accelerators that are not there, to compile for: TPU pods by their names, GPUs by kind and number.

`v5e:4x4`, `v4:4x4x8`, ... need the extra `tpu` (libtpu, no TPU); `h100:8` the extra `cuda`.
"""

import os
from typing import Any

# libtpu looks for a TPU host unless it is told that there is none; read when it is loaded.
NO_TPU_HOST = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # there is no driver to check
}
MEMORY_GIB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32, "h100": 80}  # from the makers' pages
GPUS_A_HOST = 8
# XLA's own description of a chip, in its text form; the figures are those a H100 SXM reports.
H100 = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def get_devices(topology: str) -> list[Any]:
    """The devices of `topology`, in the order of their numbers; none of them can run anything.

    Call it before anything else loads libtpu.

    Raises:
      ValueError: no such kind, or a GPU count that is no whole number of hosts of 8.
    """
    kind, _, shape = topology.partition(":")
    if kind not in MEMORY_GIB or not shape:
        raise ValueError(
            f"got topology {topology!r}; expected one of {sorted(MEMORY_GIB)}, a colon and a shape, "
            "such as v5e:16x16, or a number of GPUs, such as h100:32."
        )
    os.environ.update(NO_TPU_HOST)
    from jax.experimental import topologies

    if kind != "h100":
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    number = int(shape) if shape.isdecimal() else 0
    if number < 1 or (number > GPUS_A_HOST and number % GPUS_A_HOST):
        raise ValueError(f"got {topology!r}; expected 1 to 8 GPUs, or a multiple of 8.")
    hosts = max(1, number // GPUS_A_HOST)
    found = topologies.get_topology_desc(
        platform="cuda",
        topology_name=kind,
        topology=f"1x{hosts}x{number // hosts}",
        target_config=H100,
    )
    return list(found.devices)
