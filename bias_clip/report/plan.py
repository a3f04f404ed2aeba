"""Turns a compiler's data about a step into the text that tools/compile_plan.py prints."""

from typing import Any

from bias_clip.core.formatting import GIB
from bias_clip.plan.hlo import count_hlo
from bias_clip.plan.roofline import (
    Chip,
    Memory,
    advise,
    advise_refused,
    estimate_times,
    usable_memory,
)


def make_record(measured: dict[str, Any], chip: Chip) -> dict[str, Any]:
    """Returns memory, work, times and advice of one step, for JSON.

    Args:
      measured: from `compile_plan.measure`.
      chip: from `get_chip`.
    """
    kept = ("chips", "mesh", "batch size", "loss form", "remat", "attention")
    record = {key: measured[key] for key in (*kept, "parameters", "model flops")}
    settings = {"remat": measured["remat"], "fsdp": measured["mesh"]["fsdp"]}
    record["compile seconds"] = measured["step"]["seconds"]
    record["memory"] = {key: value / GIB for key, value in measured["bytes"].items()}
    record["usable"] = usable_memory(chip) / GIB
    # The compiler gave up for lack of memory, so there is no program to count.
    if "refused" in measured["step"]:
        advice = advise_refused(measured["step"]["refused"], **settings)
        return record | {"fits": False, "advice": advice}
    memory = _memory(measured)
    counts = count_hlo(measured["step"]["hlo"])
    times = estimate_times(counts, chip, num_chips=measured["chips"])
    peak = measured["chips"] * chip.flops
    return record | {
        "memory": {key: value / GIB for key, value in memory._asdict().items()},
        "total": memory.total / GIB,
        # bool, because JSON cannot write NumPy's.
        "fits": bool(memory.total <= usable_memory(chip)),
        "flops": measured["chips"] * counts.flops,
        "cost_analysis flops": measured["step"]["cost_analysis flops"],
        "hbm bytes": counts.hbm_bytes,
        "sent bytes": counts.sent,
        "kernels": dict(counts.kernels) if chip.gpu else None,
        "seconds": times._asdict() | {"at least": times.at_least, "in turns": times.in_turns},
        "mfu at most": measured["model flops"] / peak / times.at_least,
        "mfu in turns": measured["model flops"] / peak / times.in_turns,
        "compiler's seconds": counts.cycles / chip.clock if chip.clock else None,
        "advice": advise(
            memory, times, counts.sent, chip, **settings, attention=measured["attention"]
        ),
    }


def _memory(measured: dict[str, Any]) -> Memory:
    step, alone = measured["step"], measured["loss alone"]
    # Alone, the loss may need more than within the step, where buffers are shared: never above the whole.
    loss = min(step["temporaries"], alone.get("temporaries", step["temporaries"]))
    return Memory(
        **measured["bytes"],
        loss=loss,
        # What the step needs beyond the loss alone: activations and gradients.
        activations=step["temporaries"] - loss,
        code=step["code"],
    )


def format_plan(record: dict[str, Any]) -> str:
    """Returns the record as lines for a terminal."""
    lines = [
        f"{record['config']} on {record['topology']}: {record['chips']} chips, "
        f"mesh {record['mesh']}, batch {record['batch size']:,}, loss {record['loss form']}, "
        f"remat {record['remat']}, attention {record['attention']}",
        f"parameters            {record['parameters'] / 1e6:,.1f} million",
        f"model FLOPs           {record['model flops'] / 1e12:,.1f} TFLOP a step",
        "memory per chip",
        *(f"  {name:<20}{size:8.3f} GiB" for name, size in record["memory"].items()),
    ]
    if "total" in record:
        lines += _format_work(record)
    fits = "fits" if record["fits"] else "DOES NOT FIT"
    lines.append(f"{fits}: {record['usable']:.1f} GiB usable")
    return "\n".join([*lines, *(f"  try: {advice}" for advice in record["advice"])])


def _format_work(record: dict[str, Any]) -> list[str]:
    seconds, sent = record["seconds"], record["sent bytes"]
    body_once, estimated = record["cost_analysis flops"], record["compiler's seconds"]
    missing = ", kernels of attention not counted" if record["attention"] == "pallas" else ""
    noted = "none" if body_once is None else f"{body_once / 1e12:,.2f} TFLOP"
    return [
        f"  {'total':<20}{record['total']:8.3f} GiB",
        f"compiled FLOPs        {record['flops'] / 1e12:,.1f} TFLOP a step, all chips "
        f"(the compiler's count, loops once, one chip: {noted})",
        f"memory traffic        {record['hbm bytes'] / GIB:,.1f} GiB a chip, at least",
        *_format_kernels(record["kernels"]),
        "sent per chip",
        *(f"  {kind:<20}{size / 2**20:10.2f} MiB" for kind, size in sent.items()),
        f"time at peak          compute {1e3 * seconds['compute']:.1f}, memory "
        f"{1e3 * seconds['hbm']:.1f}, links {1e3 * seconds['links']:.1f} ms",
        f"step                  at least {1e3 * seconds['at least']:.1f} ms (the longest), "
        f"{1e3 * seconds['in turns']:.1f} ms (their sum)",
        f"MFU                   at most {100 * record['mfu at most']:.0f} %, "
        f"{100 * record['mfu in turns']:.0f} % without overlap",
        *(
            [f"the compiler's guess  {1e3 * estimated:.1f} ms without links{missing}"]
            if estimated
            else []
        ),
    ]


def _format_kernels(kernels: dict[str, int] | None) -> list[str]:
    if kernels is None:
        return []
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in kernels.items())
    return [f"kernels               {sum(kernels.values()):,} started a step: {kinds}"]
