"""What a load holds at its peak, measured in a process of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.pretrained.cases import edit_config, rewritten

MEASURE = """
import sys, jax, numpy as np
from bias_clip.pretrained import load_pretrained

def mebibytes(key):
    lines = open("/proc/self/status").read().splitlines()
    return int([line for line in lines if line.startswith(key)][0].split()[1]) / 1024

jax.block_until_ready(jax.device_put(np.zeros(3)))
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = mebibytes("VmRSS")
loaded = load_pretrained(sys.argv[1])
print(mebibytes("VmHWM") - before)
"""


@pytest.mark.slow
def test_a_load_holds_little_more_than_the_file(tmp_path):
    def with_a_large_table(tensors):
        name = "text_model.embeddings.token_embedding.weight"
        width = tensors[name].shape[1]
        tensors |= {key: x.astype(np.float32) for key, x in tensors.items()}
        tensors[name] = np.ones((2_000_000, width), np.float32)

    path = rewritten(tmp_path, "hf_siglip_bfloat16", with_a_large_table)
    edit_config(path / "config.json", lambda c: c["text_config"].update(vocab_size=2_000_000))
    size = (path / "model.safetensors").stat().st_size / 2**20
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert size < float(done.stdout) < 1.2 * size  # 366 MiB; a second copy would be 2
