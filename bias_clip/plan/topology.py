"""Accelerators to compile for without having them: TPU pods by name, GPUs by kind and number.

`v5e:4x4`, `v4:4x4x8`, ... need the extra `tpu` (libtpu, no TPU); `h100:8`, `a100:8` the extra `cuda`.
"""

import os
from typing import Any

# Without these libtpu searches for a TPU host. It reads them when it is loaded.
NO_TPU_HOST = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # there is no driver to check
}
TPUS = ("v4", "v5e", "v5p", "v6e")
MEGACORE = ("v4", "v5p")  # two cores a chip, which JAX's meshes take as one device
GPUS_PER_HOST = 8
# XLA's own description of a chip, in its text form.
_GPU = """gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {core_memory} threads_per_core_limit: 2048 core_count: {cores}
  fpus_per_core: {fpus} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: {cache}
  clock_rate_ghz: {clock} device_memory_size: {memory} shared_memory_per_block_optin: {optin}
  cuda_compute_capability {{ major: {major} }} registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{name}"
"""
GPUS = {
    "h100": dict(  # what a H100 SXM reports
        name="NVIDIA H100 80GB HBM3",
        major=9,
        cores=132,
        fpus=128,
        clock=1.98,
        memory=84_942_979_072,
        bandwidth=3_352_320_000_000,
        cache=52_428_800,
        core_memory=233_472,
        optin=232_448,
    ),
    "a100": dict(  # from NVIDIA's white paper and CUDA's table of compute capability 8.0
        name="NVIDIA A100-SXM4-80GB",
        major=8,
        cores=108,
        fpus=64,
        clock=1.41,
        memory=85_100_000_000,
        bandwidth=2_039_000_000_000,
        cache=41_943_040,
        core_memory=167_936,
        optin=166_912,
    ),
}


def parse_topology(topology: str) -> tuple[str, str]:
    """Returns kind and shape of a name such as v5e:16x16 or h100:32.

    Raises:
      ValueError: an unknown kind, no shape, or a GPU count above 8 that does not fill hosts of 8.
    """
    kind, _, shape = topology.partition(":")
    if kind not in (*TPUS, *GPUS) or not all(side.isdecimal() for side in shape.split("x")):
        raise ValueError(
            f"got topology {topology!r}; expected one of {sorted((*TPUS, *GPUS))}, a colon and a "
            "shape, such as v5e:16x16, or a number of GPUs, such as h100:32."
        )
    if kind in GPUS:
        number = int(shape) if shape.isdecimal() else 0
        if number < 1 or (number > GPUS_PER_HOST and number % GPUS_PER_HOST):
            raise ValueError(f"got {topology!r}; expected 1 to 8 GPUs, or a multiple of 8.")
    return kind, shape


def get_devices(topology: str, *, dump: str | None = None) -> list[Any]:
    """The devices of `topology` in the order of their numbers; they can only be compiled for.

    Call it before anything else loads libtpu.

    Args:
      topology: such as v5e:16x16.
      dump: a folder for the output of the compilers, including buffers.

    Raises:
      ValueError: see `parse_topology`; or the compiler of that kind of chip is not installed.
    """
    kind, shape = parse_topology(topology)
    os.environ.update(NO_TPU_HOST)
    if dump is not None:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dump}"
    # After the variables, which libtpu reads when it is loaded.
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies

    platform: str = "tpu"
    arguments: dict[str, Any] = {"chip_config_name": "megacore"} if kind in MEGACORE else {}
    if kind in GPUS:
        hosts = max(1, int(shape) // GPUS_PER_HOST)
        platform = "cuda"
        # Slices x hosts of a slice x devices of a host.
        arguments = dict(
            topology=f"1x{hosts}x{int(shape) // hosts}", target_config=_GPU.format(**GPUS[kind])
        )
    name = kind if kind in GPUS else topology
    try:
        found = topologies.get_topology_desc(platform=platform, topology_name=name, **arguments)
    except (RuntimeError, NotImplementedError, JaxRuntimeError) as error:
        raise ValueError(
            f"cannot make the topology {topology!r}: {error}. Is the shape one that exists, and is "
            f"the extra {'cuda' if kind in GPUS else 'tpu'} installed?"
        ) from error
    return list(found.devices)
