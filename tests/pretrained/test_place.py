"""Where checkpoints are: the Hub, by a server that answers as it does, and what cannot be an address."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from bias_clip.core.storage import run_folder
from bias_clip.pretrained import load_pretrained
from bias_clip.pretrained.place import Place, find_weights, open_place, split_tower
from tests.pretrained.cases import GOLDEN
from tests.pretrained.hub import COMMIT, serving
from tests.train.workdir import bucket

LOAD = """
import sys, jax
from bias_clip.pretrained import load_pretrained
loaded = load_pretrained(sys.argv[1])
print(loaded.origin["commit"], sum(x.size for x in jax.tree.leaves(loaded.params)))
"""


def load(path, endpoint, cache):
    """In a process of its own: the Hub's client reads its address when it is imported."""
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", LOAD, path], env=env, capture_output=True, text=True, timeout=300
    )


def test_a_repository_of_the_hub_is_loaded_at_one_commit(tmp_path):
    folder = GOLDEN / "hf_siglip_bfloat16"
    with serving("owner/name", folder, ("main", "v1")) as (endpoint, requests):
        done = load("hf://owner/name@v1", endpoint, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[0] == COMMIT
        fetched = {path.rsplit("/", 1)[-1] for command, path in requests if "/resolve/" in path}
        assert fetched == {"model.safetensors", "config.json"}  # and not the oracle beside them
        assert ("GET", "/api/models/owner/name/revision/v1") in requests
        absent = load("hf://owner/other", endpoint, tmp_path)
        assert absent.returncode == 1
        assert "ValueError: The Hub does not give hf://owner/other" in absent.stderr


@pytest.mark.slow
def test_a_folder_and_a_file_in_a_bucket_are_what_they_are_on_a_disk(monkeypatch):
    with bucket.running() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        golden = GOLDEN / "hf_siglip_bfloat16"
        for name in ("model.safetensors", "config.json"):
            (run_folder("gs://bucket/siglip") / name).write_bytes((golden / name).read_bytes())
        expected = load_pretrained(golden)
        for path in ("gs://bucket/siglip", "gs://bucket/siglip/model.safetensors"):
            loaded = load_pretrained(path)
            assert loaded.config == expected.config
            jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
        with pytest.raises(ValueError, match="no object or folder gs://bucket/other"):
            load_pretrained("gs://bucket/other")


@pytest.mark.parametrize("path", ["hf://name", "hf://a/b/c", "hf://../x", "hf://a/b@", "hf://"])
def test_an_address_of_another_form_is_named(path):
    with pytest.raises(ValueError, match=r"expected hf://owner/name"):
        open_place(path, None)


def test_a_suffix_is_a_tower_and_a_revision_is_none():
    assert split_tower("a/b.npz:img") == ("a/b.npz", "img")
    assert split_tower("gs://bucket/x:txt") == ("gs://bucket/x", "txt")
    assert split_tower("hf://a/b@v1") == ("hf://a/b@v1", None)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("model.safetensors", "open_clip_model.safetensors"), ["open_clip_model.safetensors"]),
        (("pytorch_model.bin", "model.safetensors"), ["model.safetensors"]),
        (
            ("model-00001-of-00002.safetensors", "model.safetensors.index.json"),
            ["model.safetensors.index.json"],
        ),
        (("a.npz", "b.pt", "config.json"), ["a.npz", "b.pt"]),
    ],
)
def test_names_tell_which_file_is_preferred(names, expected):
    assert find_weights(Place("x", names, None, None, {})) == expected


def test_no_network_is_said_in_one_line(monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        huggingface_hub.utils.get_session().get("http://127.0.0.1:1")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises(ValueError, match="The Hub does not give hf://owner/name"):
        load_pretrained("hf://owner/name")
