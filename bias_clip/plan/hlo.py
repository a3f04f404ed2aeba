"""What a compiled program does: arithmetic, memory traffic and collectives, read from its HLO text.

The compiler's own `cost_analysis` counts the body of a loop once, counts nothing on GPUs, and never
reports collectives. Here a loop counts as often as it runs.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from bias_clip.plan.hlo_flops import ATTENTION, is_product, own_flops
from bias_clip.plan.hlo_text import Computation, Instruction, Shape, read_hlo

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
_CARRIER = "async_collective_fusion"
_PARTIAL = ("dynamic-slice", "slice", "gather")
"""They read a part of their operand, alone or inside a fusion."""
# Opcodes without work, or whose work is counted in the computations that they call.
_FREE = frozenset(
    """parameter constant tuple get-tuple-element bitcast while conditional call after-all
    partition-id replica-id iota opt-barrier async-start async-update async-done copy-done
    custom-call-done""".split()
)


class Counts(NamedTuple):
    """The work of one run of a program on one chip."""

    flops: float  # of products and convolutions
    hbm_bytes: float  # read and written in the chip's main memory
    sent: dict[str, float]  # bytes that the chip sends, by kind of collective
    cycles: float = 0.0  # as a TPU's compiler estimates them; kernels of Pallas have none
    kernels: Mapping[str, int] = {}  # that a GPU starts, by kind; see `_kernel`


def count_hlo(text: str, *, branch: Callable = max) -> Counts:
    """Counts the work of a compiled program.

    Memory traffic is a lower bound: every instruction reads its operands and writes its result once;
    a slice reads only its part. Padding of tiles, and data that stays on the chip, are not counted.
    Collectives are assumed to use a ring of the n chips of a group. A chip sends (n-1)/n of the array
    in an all-gather (of the result), a reduce-scatter (of the operand) or an all-to-all, twice that in
    an all-reduce, and the operand in a permutation.

    Args:
      text: optimised HLO, from `compiled.as_text()`.
      branch: selects the branch of a conditional to count, by FLOPs: `max` or `min`.

    Raises:
      ValueError: text without an entry computation, or a loop without a readable number of turns.
    """
    program = read_hlo(text)
    return _count(program.entry, program.computations, branch, {})


def _count(name: str, all_: dict[str, Computation], branch: Callable, done: dict) -> Counts:
    # Computations are counted once: several calls may share one.
    if name not in done:
        total = Counts(0.0, 0.0, {})
        for instruction in all_[name].values():
            total = _add(total, _count_one(instruction, all_[name], all_, branch, done))
        done[name] = total
    return done[name]


def _count_one(
    x: Instruction, scope: Computation, all_: dict[str, Computation], branch: Callable, done: dict
) -> Counts:
    called = [_count(name, all_, branch, done) for name in x.called]
    if x.opcode == "while":
        # The condition is called too, but its work is nothing beside the body's.
        return _times(called[x.called.index(x.attribute("body"))], count_turns(x, scope, all_))
    if x.opcode == "conditional":
        # `branch` decides, `max` for a bound; the compiler does not know which one will run.
        return branch(called, key=lambda counts: counts.flops)
    total = Counts(
        own_flops(x, scope),
        _own_bytes(x, scope, all_),
        _own_sent(x, scope),
        _own_cycles(x),
        {kind: 1 for kind in (_kernel(x),) if kind},
    )
    if x.opcode in ("call", "fusion") or x.opcode.startswith("async"):
        for name, inner in zip(x.called, called, strict=True):
            if x.opcode == "fusion":  # traffic and time are those of the fusion as a whole
                inner = inner._replace(hbm_bytes=0.0, cycles=0.0, kernels={})
            total = _add(total, inner)
            # The body of a continued collective repeats the instruction that its start has counted.
            if _goes_on(name, all_[name]):
                total = total._replace(sent={})
        if "all-reduce-scatter" in " ".join(x.called):  # a TPU's name for it, with a slice inside
            reduced = total.sent.pop("all-reduce", 0.0)
            # An all-reduce was counted as 2 (n-1)/n; a reduce-scatter sends half of that.
            total = _add(total, Counts(0.0, 0.0, {"reduce-scatter": reduced / 2}))
    return total


def _goes_on(name: str, body: Computation) -> bool:
    """Whether a collective in `body` was started elsewhere, where it is counted.

    A TPU hides a gather behind products: one fusion starts it, other fusions, each with a copy of the
    instruction, continue it beside their own work, and a last one ends it.
    """
    rest = " ".join(x.rest for x in body.values() if x.opcode == "custom-call")
    return "AsyncCollectiveStart" not in rest and (
        name.startswith(_CARRIER) or "AsyncCollectiveDone" in rest
    )


def count_turns(loop: Instruction, scope: Computation, all_: dict[str, Computation]) -> int:
    """Returns how often a `while` runs, from the compiler's note or from `counter < constant`.

    Raises:
      ValueError: neither exists.
    """
    noted = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    if noted:
        return int(noted[1])
    condition = all_[loop.attribute("condition")]
    bounds = [
        int(x.rest_of_constant)
        for x in condition.values()
        if x.opcode == "constant" and re.fullmatch(r"-?\d+", x.rest_of_constant)
    ]
    if len(bounds) != 1:
        raise ValueError(
            f"cannot tell how often the loop {loop.name!r} runs: its condition has the constants "
            f"{bounds}, expected the one bound of a scan."
        )
    return bounds[0]


def _add(a: Counts, b: Counts) -> Counts:
    def by_kind(x: Mapping[str, Any], y: Mapping[str, Any]) -> dict[str, Any]:
        return {kind: x.get(kind, 0) + y.get(kind, 0) for kind in sorted(x.keys() | y.keys())}

    return Counts(
        a.flops + b.flops,
        a.hbm_bytes + b.hbm_bytes,
        by_kind(a.sent, b.sent),
        a.cycles + b.cycles,
        by_kind(a.kernels, b.kernels),
    )


def _times(a: Counts, n: int) -> Counts:
    sent = {kind: n * size for kind, size in a.sent.items()}
    kernels = {kind: n * number for kind, number in a.kernels.items()}
    return Counts(n * a.flops, n * a.hbm_bytes, sent, n * a.cycles, kernels)


def _kernel(x: Instruction) -> str | None:
    """What a GPU starts for `x`: a "fusion", a "product", "attention", a collective, or "other"; None: nothing."""
    if x.opcode in _FREE or x.opcode.endswith("-done"):
        return None
    if x.opcode == "fusion":
        return "fusion"
    if is_product(x):
        return "product"
    if ATTENTION in x.rest:
        return "attention"
    return "collective" if x.opcode.removesuffix("-start") in COLLECTIVES else "other"


def _own_cycles(x: Instruction) -> float:
    found = re.search(r'"estimated_cycles":"(\d+)"', x.rest)
    return float(found[1]) if found else 0.0


def _own_sent(x: Instruction, scope: Computation) -> dict[str, float]:
    kind = x.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return {}
    size = sum(_size(shape) for name in x.operands for shape in scope[name].shapes)
    n = _group_size(x)
    share = (n - 1) / n
    factor = {
        "all-gather": n - 1,  # the operand is the chip's own part
        "all-reduce": 2 * share,
        "all-to-all": share,
        "collective-permute": 1,
        "reduce-scatter": share,
    }
    return {kind: factor[kind] * size}


def _group_size(x: Instruction) -> int:
    """The number of devices per group, from one of three notations: lists, an iota, mesh axes."""
    if x.opcode.startswith("collective-permute"):
        # Permutations have pairs in place of groups; their factor does not use the number.
        return 2
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", x.rest)
    if listed:
        return len(listed[1].split(","))
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", x.rest)
    if iota:
        return int(iota[1])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", x.rest)
    if mesh is None:
        raise ValueError(f"the collective {x.name!r} has no replica_groups that can be read.")
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
    parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])  # 'axis':(before)size is a part of it
    return math.prod(int(part) if part else sizes[name] for name, part in parts)


def _own_bytes(x: Instruction, scope: Computation, all_: dict[str, Computation]) -> float:
    # A "-done" only waits for what its "-start" has moved.
    if x.opcode in _FREE or x.opcode.endswith("-done") or "AllocateBuffer" in x.rest:
        return 0.0
    operands = [_hbm(scope[name]) for name in x.operands]
    written = _hbm(x)
    if x.opcode == "fusion" and x.called[0].startswith(_CARRIER):
        return _carrier_bytes(x, operands)
    if x.opcode == "copy-start":
        return sum(operands) + (_size(x.shapes[0]) if x.shapes[0].in_hbm else 0.0)
    if x.opcode in ("slice-start", "dynamic-slice-start"):
        # A TPU prefetches parts of an array: the shapes are the whole one, the part, a counter.
        part = _size(x.shapes[1])
        return (part if operands[0] else 0.0) + (part if x.shapes[1].in_hbm else 0.0)
    if x.opcode.endswith("-start"):
        # Reads the operand here and writes it at the other end.
        return 2 * sum(operands)
    if x.opcode in _PARTIAL:
        # Only the part is read, however large the operand.
        return 2 * written
    if x.opcode == "dynamic-update-slice":
        # The array stays where it is: only the update is read and written.
        return 2 * _hbm(scope[x.operands[1]])
    if x.opcode == "fusion":
        return _fusion_bytes(operands, written, all_[x.called[0]], all_)
    return sum(operands) + written


def _carrier_bytes(x: Instruction, operands: list[float]) -> float:
    """Removes the buffers of a continued collective, which only pass through."""
    passed = re.findall(r"\{(\d+)\}: \((\d+), ", x.rest)
    outputs = {int(i) for i, _ in passed}
    inputs = {int(i) for _, i in passed}
    kept = [shape for i, shape in enumerate(x.shapes) if i not in outputs and shape.in_hbm]
    read = [size for i, size in enumerate(operands) if i not in inputs]
    return sum(read) + sum(_size(shape) for shape in kept)


def _fusion_bytes(
    operands: list[float], written: float, body: Computation, all_: dict[str, Computation]
) -> float:
    """Operands that are only sliced count as their slices; a result updated in place as its update."""
    total = 0.0
    for i, full in enumerate(operands):
        uses = list(_uses(body, i, all_))
        sliced = uses and all(use.opcode in _PARTIAL for use in uses)
        updated = uses and all(use.opcode == "dynamic-update-slice" for use in uses)
        part = sum(_size(use.shapes[0]) for use in uses) if sliced else full
        total += min(full, 0.0 if updated else part)
    updates = [x for x in body.values() if x.opcode == "dynamic-update-slice"]
    for x in updates:
        # The result's buffer is that of the operand; only the update is written.
        saved = _size(x.shapes[0]) - _size(body[x.operands[1]].shapes[0])
        written = max(0.0, written - saved)
    return total + written


def _uses(body: Computation, parameter: int, all_: dict[str, Computation]) -> Iterator[Instruction]:
    """The instructions that use a parameter; bitcasts and inner fusions are followed.

    An update that uses it other than as the updated array reads all of it.
    """
    names = {x.name for x in body.values() if x.parameter_number == parameter}
    for x in body.values():  # in order: an operand is defined before its use
        if names.isdisjoint(x.operands):
            continue
        if x.opcode == "bitcast":
            names.add(x.name)
        elif x.opcode == "fusion":
            for i in (i for i, operand in enumerate(x.operands) if operand in names):
                yield from _uses(all_[x.called[0]], i, all_)
        elif x.opcode == "dynamic-update-slice" and x.operands[0] not in names:
            yield x._replace(opcode="read")
        else:
            yield x


def _hbm(x: Instruction) -> float:
    return sum(_size(shape) for shape in x.shapes if shape.in_hbm)


def _size(shape: Shape) -> float:
    return float(shape.bytes)
