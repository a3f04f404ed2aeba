"""Plans: what is counted is what the step does, and what does not fit says so.

Where libtpu or JAX's CUDA plugin are installed, a small step is compiled for a TPU and for a GPU that
are not there, and with libtpu SigLIP B/16 for a pod, with and without every regulariser. They are not
among the requirements of the tests (700 MB and 5 GB), so without them those tests do not exist.
"""

import gzip
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from bias_clip.cli.compile_plan import (
    bytes_a_chip,
    count_allocated,
    lower_loss,
    make_global_objective,
    measure,
)
from bias_clip.models.vit import parse_variant
from bias_clip.plan import topology
from bias_clip.plan.flops import count_flops
from bias_clip.plan.hlo import count_hlo
from bias_clip.plan.roofline import CHIPS, GIB
from bias_clip.report.plan import format_plan, make_record
from bias_clip.train.objective import make_objective
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh
from tests.train.tiny import tiny_config

ROOT = Path(__file__).parents[2]
COMPILERS = {"libtpu": ("v5e:2x2", "pallas"), "jax_cuda12_plugin": ("h100:2", "cudnn")}
INSTALLED = [found for module, found in COMPILERS.items() if importlib.util.find_spec(module)]
CONFIG = "from tests.train.tiny import tiny_config as get_config\n"
REFUSED = {"seconds": 1.0, "refused": "RESOURCE_EXHAUSTED: used 30.0G of 15.7G hbm"}


@pytest.fixture(scope="module")
def config_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "configs" / "small.py"
    path.parent.mkdir()
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def measured(config_path):
    return measure(str(config_path), jax.devices(), overrides=["mesh.fsdp=2"])


@pytest.mark.parametrize(
    "name", ["v9:2x2", "v5e", "v5e:", "v5e:2xtwo", "h100:12", "h100:0", "h100:2x2", "cpu:8"]
)
def test_topology_that_is_none_is_an_error(name):
    with pytest.raises(ValueError, match=f"got .*{name}.*expected"):
        topology.parse_topology(name)


def test_every_topology_has_peaks():
    assert set(CHIPS) == {*topology.TPUS, *topology.GPUS}
    assert all(chip.flops > 0 for chip in CHIPS.values())


def test_plan_counts_the_products_of_the_step(measured):
    setup = make_setup(tiny_config(), mesh=make_mesh(fsdp=2), examples_per_epoch=None)
    expected = count_flops(setup.train_step, setup.abstract_state, setup.abstract_batch)
    record = make_record(measured, CHIPS["v5e"])
    assert record["flops"] == pytest.approx(
        expected, rel=0.05
    )  # of tiny products XLA rewrites a few
    assert record["fits"]
    assert record["seconds"]["at least"] <= record["seconds"]["in turns"]
    assert 0 < record["mfu in turns"] <= record["mfu at most"]


def test_plan_splits_the_memory_of_the_compiler(measured):
    memory, step = make_record(measured, CHIPS["v5e"])["memory"], measured["step"]
    state = sum(memory[name] for name in ("parameters", "optimizer", "batch")) * GIB
    assert state == pytest.approx(step["arguments"], rel=0.01)
    temporaries = (memory["loss"] + memory["activations"]) * GIB
    assert temporaries == pytest.approx(step["temporaries"])


def test_plan_is_readable_and_json(measured):
    record = make_record(measured, CHIPS["v5e"])
    text = format_plan({"config": "small.py", "topology": "v5e:8"} | record)
    assert json.loads(json.dumps(record)) == record
    for word in ("optimizer", "all-reduce", "MFU", "fits: 16.0 GiB usable", "attention xla"):
        assert word in text
    assert "compiler's guess" not in text  # a CPU's has none
    guessed = format_plan({"config": "a", "topology": "b"} | record | {"compiler's seconds": 0.5})
    assert "the compiler's guess  500.0 ms" in guessed


def test_refused_step_does_not_fit_and_says_what_to_try(measured):
    record = make_record(measured | {"step": REFUSED}, CHIPS["v5e"])
    text = format_plan({"config": "small.py", "topology": "v5e:8"} | record)
    assert not record["fits"]
    assert "DOES NOT FIT" in text
    assert "try: config.model.remat = 'full'" in text


def test_sharded_parameters_are_counted_by_the_chip():
    def parameters(fsdp):
        mesh = make_mesh(fsdp=fsdp)
        setup = make_setup(tiny_config(), mesh=mesh, examples_per_epoch=None)
        return bytes_a_chip(setup.abstract_state.params)

    assert parameters(8) < 0.5 * parameters(1)


def test_the_ring_permutes_and_the_global_form_gathers():
    config, mesh = tiny_config(batch_size=64), make_mesh()
    setup = make_setup(config, mesh=mesh, examples_per_epoch=None)

    def sent(make):
        objective = make(config.objective.to_dict(), mesh)
        return count_hlo(lower_loss(setup, objective).compile().as_text()).sent

    ring, whole = sent(make_objective), sent(make_global_objective)
    assert ring["collective-permute"] > 0
    assert "collective-permute" not in whole
    assert whole["all-gather"] > 0


def test_the_step_has_the_form_of_the_objective_that_was_asked_for():
    def permutes(**form):
        setup = make_setup(tiny_config(), mesh=make_mesh(), examples_per_epoch=None, **form)
        step = setup.train_step.lower(setup.abstract_state, setup.abstract_batch)
        return "collective_permute" in step.as_text()

    assert permutes()
    assert not permutes(make_objective=make_global_objective)


def test_buffers_of_a_tpu_are_counted_but_those_on_the_chip():
    text = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <1 add.1 @0> (size=512,offset=0): f32[128]
allocation 1: size 1000, parameter 13, shape |f32[250]| at ShapeIndex {}, maybe-live-out:
allocation 2: size 30, preallocated-temp:
allocation 3: size 7, color 1, preallocated-temp:
"""
    assert count_allocated(text) == 1542
    with pytest.raises(ValueError, match="no allocation in"):
        count_allocated("Nothing")


def test_a_tpu_without_a_dump_is_an_error_before_anything_compiles(config_path):
    with pytest.raises(ValueError, match="TPUs need a dump"):
        measure(str(config_path), [SimpleNamespace(platform="tpu")], overrides=[])


def test_a_flag_that_the_compiler_does_not_know_is_one_line(config_path):
    with pytest.raises(ValueError, match=r"does not know a flag .*xla_tpu_no_such"):
        measure(str(config_path), jax.devices(), overrides=[], flags={"xla_tpu_no_such": "true"})


def run_tool(*arguments, **variables):
    command = [sys.executable, str(ROOT / "tools" / "compile_plan.py"), *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        # The config of these tests imports `tests`, which lies at the root of the checkout.
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_unknown_topology_ends_the_tool_with_one_line(config_path):
    done = run_tool(f"--config={config_path}", "--topology=v9:2x2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: got topology 'v9:2x2'")


if INSTALLED:

    @pytest.mark.slow
    @pytest.mark.parametrize(("topology", "kernel"), INSTALLED)
    def test_small_step_compiles_for_chips_that_are_not_there(topology, kernel, config_path):
        def plan(attention):
            sets = [f"--set=model.attention={attention}", "--set=model.dtype=bfloat16"]
            done = run_tool(
                f"--config={config_path}", f"--topology={topology}", "--json", "-", *sets
            )
            assert done.returncode == 0, done.stderr
            assert "compiling the step" in done.stderr
            return json.loads(done.stdout)

        written_out, fused = plan("xla"), plan(kernel)
        for record in (written_out, fused):
            assert record["fits"]
            assert record["flops"] > record["model flops"] / 2
            assert sum(record["sent bytes"].values()) > 0
        assert fused["model flops"] == written_out["model flops"]
        assert (fused["compiler's seconds"] is not None) == topology.startswith("v5e")


if importlib.util.find_spec("jax_cuda12_plugin"):

    @pytest.mark.slow
    def test_cublas_applies_gelu_to_the_product_before_it(config_path, tmp_path):
        sets = [f"--set=model.{x}" for x in ("scan=False", "remat=none", "dtype=bfloat16")]
        hlo = tmp_path / "step.gz"
        done = run_tool(f"--config={config_path}", "--topology=h100:1", f"--hlo={hlo}", *sets)
        assert done.returncode == 0, done.stderr
        epilogues = re.findall(r'"epilogue":"(\w+)"', gzip.decompress(hlo.read_bytes()).decode())
        # Once for each block of both towers.
        assert epilogues.count("BIAS_GELU_AUX") == 2 * parse_variant("mu")[0].depth
        assert re.search(r"^kernels .* product", done.stdout, re.MULTILINE)


if importlib.util.find_spec("libtpu"):

    def plan_pod(variant="", gib=None):
        """The plan of B/16 on 256 chips, which have `gib` of memory instead of their own."""
        config = f"--config=configs/siglip_b16.py{variant}"
        flag = "" if gib is None else f"--xla_tpu_max_hbm_size_mib={round(1024 * gib)}"
        done = run_tool(config, "--topology=v5e:16x16", "--json", "-", LIBTPU_INIT_ARGS=flag)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    @pytest.fixture(scope="module")
    def pod():
        return plan_pod()

    @pytest.mark.slow
    def test_every_regulariser_costs_less_than_2_percent_flops_and_5_percent_memory(pod):
        every = plan_pod(":all")
        assert pod["flops"] < every["flops"] < 1.02 * pod["flops"]
        assert every["total"] < 1.05 * pod["total"]

    @pytest.mark.slow
    def test_a_chip_needs_what_the_plan_says_and_little_more(pod):
        assert plan_pod(gib=1.05 * pod["total"])["fits"]
        refused = plan_pod(gib=0.9 * pod["total"])
        assert not refused["fits"]
        assert any("RESOURCE_EXHAUSTED" in advice for advice in refused["advice"])
