"""Compiles the train step of a config for a pod that is not there; says whether it fits.

python tools/compile_plan.py --config=configs/siglip_b16.py --topology=v5e:16x16

Needs the extra `tpu` (libtpu, no TPU), or `cuda` for --topology=h100:32. Prints memory per chip from the compiler's own analysis and
the FLOPs of a step; ends with status 1 and the compiler's words if the step does not fit.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Parses, compiles, prints."""
    root = str(Path(__file__).resolve().parent.parent)  # for tools.topology
    if root not in sys.path:
        sys.path.insert(0, root)
    from tools.topology import get_devices

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--topology", required=True, help="such as v5e:16x16 or v4:4x4x8")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    args = parser.parse_args()
    print(f"compiling {args.config} for {args.topology} ...", file=sys.stderr, flush=True)
    try:
        devices = get_devices(args.topology)
    except ValueError as error:
        sys.exit(f"error: {error}")
    record = plan(args.config, args.topology, devices, args.set)
    if args.json:
        print(json.dumps(record, indent=2))
    else:
        for name, value in record.items():
            print(f"{name:<28} {value if isinstance(value, str) else f'{value:,.2f}'}")
    sys.exit(0 if record["fits"] == "yes" else 1)


def plan(
    config_path: Path, topology: str, devices: list[Any], overrides: list[str]
) -> dict[str, float | str]:
    """Returns memory per chip in GiB and FLOPs of one step of the config on the topology."""
    import jax

    from bias_clip.train.config import load_config
    from bias_clip.train.flops import count_flops
    from bias_clip.train.setup import make_setup
    from bias_clip.train.sharding import make_mesh
    from tools.topology import MEMORY_GIB

    config = load_config(config_path)
    for override in overrides:
        key, _, value = override.partition("=")
        config.update_from_flattened_dict({key: json.loads(value)})
    mesh = make_mesh(**config.mesh, devices=devices)
    setup = make_setup(config, mesh=mesh, examples_per_epoch=None)
    batch = setup.abstract_batch
    forward = count_flops(
        setup.model.apply, setup.abstract_state.params, batch["image"], batch["text"]
    )
    record: dict[str, float | str] = {
        "topology": topology,
        "chips": float(len(devices)),
        "parameters (millions)": sum(
            leaf.size for leaf in jax.tree.leaves(setup.abstract_state.params)
        )
        / 1e6,
        "model TFLOP per step": 3 * forward / 1e12,
        "HBM per chip (GiB)": float(MEMORY_GIB[topology.partition(":")[0]]),
    }
    lowered = setup.train_step.lower(setup.abstract_state, batch)
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return record | {"fits": "no", "compiler": str(error).splitlines()[0]}
    memory = compiled.memory_analysis()
    gib = 2.0**30
    record |= {
        "compile seconds": time.perf_counter() - start,
        "state and batch (GiB)": memory.argument_size_in_bytes / gib,
        "temporaries (GiB)": memory.temp_size_in_bytes / gib,
        "code (GiB)": memory.generated_code_size_in_bytes / gib,
        "fits": "yes",
    }
    return record


if __name__ == "__main__":
    main()
