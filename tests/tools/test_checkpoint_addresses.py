"""A checkpoint on the Hub or in a bucket, by the command line: evaluated, exported, fine-tuned, as on a disk."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from bias_clip.core.storage import run_folder
from bias_clip.models import make_model
from bias_clip.pretrained import load_pretrained
from bias_clip.pretrained.exports.export_card import Facts
from bias_clip.pretrained.exports.export_folder import Exported, export_folder
from tests.pretrained.hub import serving
from tests.pretrained.test_load import same
from tests.train.workdir import bucket

ROOT = Path(__file__).parents[2]
CONFIG = dict(
    image=dict(variant="mu/8", size=16, pool="map"),
    text=dict(variant="mu", vocab_size=2_000, length=16, out_dim=32),
)
OPS = "decode|drop_alpha|resize(16,antialias=True)|value_range(-1,1)"
RULES = {"tokenizer": "emoji", "length": 16, "lower": False, "pad": 1, "form": "siglip"}
EVALS = """
from bias_clip.train.options.schema import default_config


def get_config():
    config = default_config()
    source = dict(name="emoji", split="concepts", unit="entry", groups=("food-drink",))
    config.evals = dict(food=dict(type="zeroshot", label="name", source=source))
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("published") / "siglip"
    params = make_model(**CONFIG).init(jax.random.key(0))
    export_folder(Exported(params, CONFIG, OPS, RULES, Facts("m", ())), out, layout="hugging_face")
    return out


def run(*words, **env):
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def evaluate_and_export(path, folder, tmp_path, **env):
    (tmp_path / "evals.py").write_text(EVALS)
    config = ["--config", tmp_path / "evals.py"]
    numbers = [
        run("tools/evaluate.py", "--workdir", p, *config, "--out", tmp_path / f"evals_{i}", **env)
        for i, p in enumerate((path, folder))
    ]
    assert numbers[0].count("eval/food/") > 3
    assert numbers[0] == numbers[1]
    out = tmp_path / "out"
    run("tools/export.py", "--from", path, "--layout", "hugging_face", "--out", out, **env)
    same(load_pretrained(out).params, load_pretrained(folder).params)
    for file in folder.iterdir():
        if file.name != "README.md":  # which says where it comes from
            assert (out / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.slow
def test_a_repository_of_the_hub_is_evaluated_and_exported(folder, tmp_path):
    with serving("owner/name", folder) as (endpoint, _):
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        evaluate_and_export("hf://owner/name", folder, tmp_path, **env)
        assert "hf://owner/name" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_a_folder_in_a_bucket_is_evaluated_exported_and_fine_tuned(folder, tmp_path, monkeypatch):
    with bucket.running() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for file in folder.iterdir():
            (run_folder("gs://bucket/siglip") / file.name).write_bytes(file.read_bytes())
        evaluate_and_export("gs://bucket/siglip", folder, tmp_path)
        words = ["data.source.name=emoji", "data.source.split=concepts", "total=2 steps"]
        words += ["batch_size=8", "log_every=1 steps"]
        run(
            "-m",
            "bias_clip.train",
            "--config=configs/finetune.py:gs://bucket/siglip",
            f"--workdir={tmp_path / 'tuned'}",
            *(f"--config.{word}" for word in words),
        )
        assert "gs://bucket/siglip" in (tmp_path / "tuned" / "start.json").read_text()
