"""What a load of a full-size checkpoint holds at its peak, measured in a process of its own."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from bias_clip.models import make_model
from bias_clip.pretrained.export import export_hugging_face
from tests.users import environment

MEASURE = """
import sys, time, jax, numpy as np
from bias_clip.pretrained import load_pretrained

def mebibytes(key):
    lines = open("/proc/self/status").read().splitlines()
    return int([line for line in lines if line.startswith(key)][0].split()[1]) / 1024

jax.block_until_ready(jax.device_put(np.zeros(3)))
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before, start = mebibytes("VmRSS"), time.perf_counter()
loaded = load_pretrained(sys.argv[1])
jax.block_until_ready(loaded.params)
print(mebibytes("VmHWM") - before, time.perf_counter() - start)
"""
CLIP = dict(head_bias=False, out_dim=768, epsilon=1e-5, activation="quick_gelu")
MODELS = {
    "SigLIP B/16": dict(
        image=dict(variant="B/16", size=224, pool="map"),
        text=dict(variant="B", vocab_size=32_000, length=64, out_dim=768),
    ),
    "CLIP L/14": dict(
        image=dict(
            variant="L/14", size=224, class_token=True, pre_norm=True, patch_bias=False,
            pool="class", **CLIP,
        ),
        text=dict(
            variant="B", vocab_size=49_408, length=77, mask="causal", pool="argmax", **CLIP
        ),
        bias_init=None,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_load_holds_little_more_than_the_file(name, tmp_path):
    shapes = jax.eval_shape(make_model(**MODELS[name]).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.random(x.shape, np.float32), shapes)
    export_hugging_face(params, MODELS[name], tmp_path)
    file = tmp_path / "model.safetensors"
    size = file.stat().st_size / 2**20
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    file.unlink()  # a gigabyte or more, which pytest would keep
    peak, seconds = map(float, done.stdout.split())
    print(f"{name}: file {size:.0f} MiB, peak {peak:.0f} MiB, {seconds:.1f} s")
    assert size < peak < 1.2 * size  # a second copy would be 2
