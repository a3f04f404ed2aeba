"""Does a step fit a chip, how long does it take at best, and what helps? Pure arithmetic."""

from typing import NamedTuple

from bias_clip.core.formatting import GIB
from bias_clip.plan.flops import PEAK_FLOPS
from bias_clip.plan.hlo import Counts
from bias_clip.plan.topology import GPUS_PER_HOST

GPU_SHARE = 0.75  # of a GPU's memory that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION is set


class Chip(NamedTuple):
    """Peaks of one chip, as its maker states them."""

    kind: str  # as in PEAK_FLOPS
    memory: float  # bytes
    hbm: float  # bytes/s
    out: float  # bytes/s out of the chip over all links together
    link: float  # bytes/s over one link, one way
    clock: float = 0.0  # cycles/s of a TPU's cores, which the compiler counts in
    gpu: bool = False
    nic: float = 0.0  # bytes/s to other hosts, one way, per GPU

    @property
    def flops(self) -> float:
        """Peak FLOP/s in bfloat16."""
        return PEAK_FLOPS[self.kind]


# TPUs: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; links: half the "bidirectional ICI bandwidth" there
# (v5e 400, v5p 1,200, v6e 800 GB/s), over 4 links in two dimensions and 6 in three; v4: 6 links of 50
# GB/s (Jouppi et al., TPU v4: An Optically Reconfigurable Supercomputer, 2023). Clocks follow from the
# peaks: FLOP/s over two operations for each cell of the chip's matrix units (v4, v5p: 8 of 128 x 128, v5e: 4,
# v6e: 4 of 256 x 256). GPUs: data sheets of the SXM modules of 80 GB, NVLink one way; hosts are
# DGX H100 (400 Gbit/s a GPU) and DGX A100 (200 Gbit/s a GPU).
CHIPS = {
    "v4": Chip("TPU v4", 32 * GIB, 1.200e12, 300e9, 50e9, clock=1.05e9),
    "v5e": Chip("TPU v5 lite", 16 * GIB, 0.819e12, 200e9, 50e9, clock=1.5e9),
    "v5p": Chip("TPU v5p", 95 * GIB, 2.765e12, 600e9, 100e9, clock=1.75e9),
    "v6e": Chip("TPU v6 lite", 32 * GIB, 1.638e12, 400e9, 100e9, clock=1.75e9),
    "h100": Chip("NVIDIA H100", 84.9e9, 3.35e12, 450e9, 450e9, gpu=True, nic=50e9),
    "a100": Chip("NVIDIA A100", 85.1e9, 2.039e12, 300e9, 300e9, gpu=True, nic=25e9),
}


class Memory(NamedTuple):
    """Bytes on one chip during a step.

    `loss` is the memory of the loss when it is compiled alone; `activations` are all other
    temporaries, including gradients. If the loss reuses space of activations that are already freed,
    the second number is smaller; the sum is correct.
    """

    parameters: float
    optimizer: float  # including the average of the parameters, if there is one
    batch: float
    loss: float
    activations: float
    code: float

    @property
    def total(self) -> float:
        """The total; the state is donated, so it counts once."""
        return sum(self)


class Times(NamedTuple):
    """Seconds of a step at the peaks of compute, memory and links, each on its own."""

    compute: float
    hbm: float
    links: float

    @property
    def at_least(self) -> float:
        """All three overlap completely: nothing can be faster on this chip."""
        return max(self)

    @property
    def in_turns(self) -> float:
        """The three run one after the other."""
        return sum(self)


def get_chip(kind: str) -> Chip:
    """Returns the chip with the name that a topology uses.

    Raises:
      ValueError: the name is unknown.
    """
    if kind not in CHIPS:
        raise ValueError(
            f"no peaks known for {kind!r}; known are {sorted(CHIPS)}; add it to "
            "bias_clip/plan/roofline.py, with its source."
        )
    return CHIPS[kind]


def estimate_times(counts: Counts, chip: Chip, *, num_chips: int) -> Times:
    """Returns a roofline of one step, from the work of one chip.

    Permutations go to a neighbour over one link; other collectives use all links of a chip. On GPUs of
    several hosts, a permutation is as slow as its slowest pair, which uses one network card. Other
    collectives share the cards of their host, which has one per GPU.
    """
    out, link = chip.out, chip.link
    if chip.gpu and num_chips > GPUS_PER_HOST:
        # A ring over hosts is as fast as the cards of a host together; a pair of GPUs shares one card.
        out, link = min(out, GPUS_PER_HOST * chip.nic), chip.nic
    turned = counts.sent.get("collective-permute", 0.0)
    others = sum(counts.sent.values()) - turned
    return Times(
        counts.flops / chip.flops, counts.hbm_bytes / chip.hbm, turned / link + others / out
    )


def usable_memory(chip: Chip) -> float:
    """Bytes that a program can use; on a TPU the compiler decides and refuses by itself."""
    return chip.memory * (GPU_SHARE if chip.gpu else 1.0)


def advise(
    memory: Memory,
    times: Times,
    sent: dict[str, float],
    chip: Chip,
    *,
    remat: str,
    fsdp: int,
    attention: str,
) -> list[str]:
    """Returns what to change, the largest part first; empty if nothing stands out.

    Args:
      memory: memory of one chip.
      times: from `estimate_times`.
      sent: bytes by kind of collective.
      chip: from `get_chip`.
      remat: `config.model.remat`.
      fsdp: size of that mesh axis.
      attention: `config.model.attention`.
    """
    about_time = _about_time(times, sent, fsdp)
    if times.hbm > 0.5 * times.compute and attention == "xla":
        kernel = "cudnn" if chip.gpu else "pallas"
        about_time.append(f"scores that stay on the chip: config.model.attention = '{kernel}'")
    return [*_about_memory(memory, chip, remat=remat, fsdp=fsdp), *about_time]


def advise_refused(refusal: str, *, remat: str, fsdp: int) -> list[str]:
    """Returns the same for a step that the compiler refused, whose parts are unknown.

    Args:
      refusal: the compiler's message.
      remat: `config.model.remat`.
      fsdp: size of that mesh axis.
    """
    advice = [] if remat == "full" else [f"config.model.remat = 'full' (now {remat!r})"]
    if fsdp == 1:
        advice.append("shard the state: config.mesh = dict(data=-1, fsdp=16)")
    return [*advice, "fewer examples per chip: more chips or a smaller batch", refusal]


def _about_memory(memory: Memory, chip: Chip, *, remat: str, fsdp: int) -> list[str]:
    usable, state = usable_memory(chip), memory.parameters + memory.optimizer
    advice = []
    if memory.total <= usable:
        if remat == "full" and memory.total < 0.5 * usable:
            free = (usable - memory.total) / GIB
            advice.append(
                f"{free:.1f} GiB are free: config.model.remat = 'dots' or 'minimal' computes less again, "
                "but keeps and moves more: plan it before"
            )
        return advice
    if chip.gpu and memory.total <= 0.92 * chip.memory:
        advice.append("XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 (JAX takes 0.75 of a GPU by default)")
    parts = {
        memory.activations: _about_activations(remat),
        memory.loss: "logits by chunks: chunk_size=256 in the terms of config.objective",
        state: f"shard the state: a larger config.mesh.fsdp (now {fsdp})",
    }
    # Parts below a tenth cannot make the step fit.
    return [*advice, *(parts[size] for size in sorted(parts, reverse=True) if size > 0.1 * usable)]


def _about_activations(remat: str) -> str:
    if remat != "full":
        return f"recompute the layers: config.model.remat = 'full' (now {remat!r})"
    return "fewer examples per chip: more chips, or a smaller config.batch_size"


def _about_time(times: Times, sent: dict[str, float], fsdp: int) -> list[str]:
    if times.at_least == times.compute:
        return []
    if times.at_least == times.hbm:
        return ["memory traffic is the limit: more examples per chip, or a remat that keeps less"]
    most = max(sent, key=lambda kind: sent[kind])
    if most in ("all-gather", "reduce-scatter") and fsdp > 1:
        return [f"gathering the parameters is the limit: a smaller config.mesh.fsdp (now {fsdp})"]
    if most == "collective-permute":
        return ["the ring of the loss is the limit: more examples per chip, fewer chips"]
    return [f"the links are the limit, by {most}: more examples per chip, fewer chips"]
