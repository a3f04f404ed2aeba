"""Flags of XLA per chip: what the launchers set when asked, and what a plan may compile with.

None is set by default: no chip of ours has measured them. Each has its reason and its source. Names that
only other projects' scripts vouch for are marked, because libtpu publishes no list of its flags.
"""

from typing import NamedTuple


class Flag(NamedTuple):
    """A flag of XLA.

    Attributes:
      name: without "--".
      value: as the compiler reads it.
      reason: what it does.
      source: who documents it.
      documented: whether its maker's documentation says so; False: only scripts of others use it.
    """

    name: str
    value: str
    reason: str
    source: str
    documented: bool = False


_RECIPE = "AI-Hypercomputer/maxtext and gclouduniverse/reproducibility (v5p, v6e), scripts"
_OVERLAP = (
    Flag(
        "xla_tpu_enable_async_collective_fusion",
        "true",
        "runs collectives inside the fusions of other arithmetic",
        _RECIPE,
    ),
    Flag(
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather",
        "true",
        "includes the all-gathers of parameters that the fsdp axis splits",
        _RECIPE,
    ),
    Flag(
        "xla_tpu_enable_async_collective_fusion_multiple_steps",
        "true",
        "lets one collective span several fusions",
        _RECIPE,
    ),
    Flag(
        "xla_tpu_overlap_compute_collective_tc",
        "true",
        "overlaps arithmetic and collectives on the tensor core",
        _RECIPE,
    ),
)
_VMEM_V6E = Flag(
    "xla_tpu_scoped_vmem_limit_kib",
    "98304",
    "gives a fusion 96 MiB of the chip's memory instead of the default, which is less",
    "apple/axlearn, axlearn/common/compiler_options.py; gclouduniverse/reproducibility (v6e)",
)
_GPU = (
    Flag(
        "xla_gpu_enable_latency_hiding_scheduler",
        "true",
        "moves collectives so that more of them overlap with arithmetic",
        "docs.jax.dev/en/latest/gpu_performance_tips.html; docs.nvidia.com/jax-toolbox",
        documented=True,
    ),
)
FLAGS: dict[str, tuple[Flag, ...]] = {
    "v5e": _OVERLAP,
    "v5p": _OVERLAP,
    "v6e": (*_OVERLAP, _VMEM_V6E),
    "h100": _GPU,
}
"""Chip to its flags. Nobody's script for v5e sets another limit than its default of scoped memory."""

SDC_FLAGS = (
    Flag(
        "xla_tpu_enable_sdc_checker",
        "true",
        "runs each program again and compares: finds chips that compute wrong values",
        "apple/axlearn, axlearn/common/compiler_options.py",
    ),
    Flag(
        "xla_tpu_sdc_check_repeat_count",
        "1",
        "how many times it runs again; each costs a step",
        "apple/axlearn, axlearn/common/compiler_options.py",
    ),
    Flag(
        "xla_tpu_sdc_check_halt_on_detection",
        "true",
        "ends the run when values differ",
        "apple/axlearn, axlearn/common/compiler_options.py",
    ),
)
"""libtpu's own check for silent corruption: set by hand, for a run that finds a bad chip."""


def chip_flags(chip: str) -> tuple[Flag, ...]:
    """The flags of a chip.

    Raises:
      ValueError: a chip without any; lists those that have some.
    """
    if chip not in FLAGS:
        raise ValueError(f"there are no XLA flags for {chip!r}; expected one of {sorted(FLAGS)}.")
    return FLAGS[chip]


def environment(chip: str) -> dict[str, str]:
    """The variable that sets a chip's flags, before jax is loaded.

    TPUs read `LIBTPU_INIT_ARGS`, because jax refuses libtpu's flags in `XLA_FLAGS`.
    """
    words = " ".join(f"--{flag.name}={flag.value}" for flag in chip_flags(chip))
    return {"XLA_FLAGS" if chip == "h100" else "LIBTPU_INIT_ARGS": words}


def compiler_options(chip: str) -> dict[str, str | bool]:
    """The same for one program, as `compile(compiler_options=...)` takes them.

    jax reads its own flags, those of GPUs, as Python's values, and hands libtpu's on as text.
    """
    return {
        flag.name: flag.value == "true" if flag.name.startswith("xla_gpu") else flag.value
        for flag in chip_flags(chip)
    }
