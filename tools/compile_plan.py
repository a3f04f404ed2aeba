"""Compiles the train step of a config for a pod that is not there; says whether it fits.

python tools/compile_plan.py --config=configs/siglip_b16.py --topology=v5e:16x16

Needs the extra `tpu` (libtpu, no TPU). Prints memory per chip from the compiler's own analysis and
the FLOPs of a step; ends with status 1 and the compiler's words if the step does not fit.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

# libtpu looks for a TPU host unless it is told that there is none; read when it is loaded.
NO_TPU_HOST = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
HBM_GIB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}  # per chip, from the makers' pages


def main() -> None:
    """Parses, compiles, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--topology", required=True, help="such as v5e:16x16 or v4:4x4x8")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    args = parser.parse_args()
    kind = args.topology.partition(":")[0]
    if kind not in HBM_GIB:
        sys.exit(
            f"error: topology {args.topology!r}; expected one of {sorted(HBM_GIB)}, a colon "
            "and a shape, such as v5e:16x16."
        )
    os.environ.update(NO_TPU_HOST)
    print(f"compiling {args.config} for {args.topology} ...", file=sys.stderr, flush=True)
    record = plan(args.config, args.topology, args.set)
    if args.json:
        print(json.dumps(record, indent=2))
    else:
        for name, value in record.items():
            print(f"{name:<28} {value if isinstance(value, str) else f'{value:,.2f}'}")
    sys.exit(0 if record["fits"] == "yes" else 1)


def plan(config_path: Path, topology: str, overrides: list[str]) -> dict[str, float | str]:
    """Returns memory per chip in GiB and FLOPs of one step of the config on the topology."""
    import jax
    from jax.experimental import topologies

    from bias_clip.train.config import load_config
    from bias_clip.train.flops import count_flops
    from bias_clip.train.setup import make_setup
    from bias_clip.train.sharding import make_mesh

    config = load_config(config_path)
    for override in overrides:
        key, _, value = override.partition("=")
        config.update_from_flattened_dict({key: json.loads(value)})
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
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
        "HBM per chip (GiB)": float(HBM_GIB[topology.partition(":")[0]]),
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
