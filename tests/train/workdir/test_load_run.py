"""A trained model in three lines: without its data and its optimiser's state."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import bias_clip
from bias_clip.data.sources import SOURCES
from bias_clip.train.workdir.commit import commit_of
from bias_clip.train.workdir.load_run import load_run, probabilities
from tests.tools.runs import make_run
from tests.train.tiny import Squares, use_squares


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        use_squares(patch)
        return make_run(tmp_path_factory.mktemp("runs") / "run", steps=(4, 6))


def test_probabilities_are_the_softmax_of_the_models_logits(workdir, tmp_path):
    assert "squares" not in SOURCES  # its training data are gone
    run = bias_clip.load_run(workdir)
    assert run.step == 6
    image, sentences = Squares()[3]["image"], ["red", "a green square", "blue"]
    Image.fromarray(image).save(tmp_path / "red.png")
    got = bias_clip.probabilities(run, tmp_path / "red.png", sentences)
    assert got.shape == (3,)
    np.testing.assert_allclose(got.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(got, probabilities(run, image, sentences), rtol=1e-5)
    # Alone with one of them, by the same logits.
    two = probabilities(run, image, sentences[:2])
    np.testing.assert_allclose(two, got[:2] / got[:2].sum(), rtol=1e-4)
    assert len(set(np.round(got, 6))) == 3


def test_nothing_of_the_optimiser_is_read(workdir, monkeypatch):
    from bias_clip.train.workdir import checkpoint

    read = []
    original = checkpoint.restore_part
    monkeypatch.setattr(
        checkpoint, "restore_part", lambda *a: read.append(set(a[2])) or original(*a)
    )
    run = load_run(workdir, 4)
    assert read == [{"params"}]
    assert run.step == 4
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(run.params))


def test_a_run_from_a_larger_mesh_is_loaded_here(workdir, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    config = json.loads((workdir / "config.json").read_text())
    config["mesh"] = {"data": 4, "fsdp": 16, "tensor": 1}
    config["model"]["attention"] = "cudnn"  # of GPUs
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "checkpoints").symlink_to(workdir / "checkpoints")
    assert load_run(copy).mesh.size == jax.device_count()


@pytest.mark.parametrize("sentences", [[], "a cat"])
def test_a_text_in_place_of_a_list_is_refused(sentences):
    with pytest.raises(ValueError, match="expected a list of at least one text"):
        probabilities(None, b"", sentences)


def test_importing_the_package_loads_nothing_heavy():
    line = "import bias_clip, sys; print([m for m in ('jax', 'numpy', 'flax') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'lode_run'"):
        bias_clip.lode_run


def git(folder, *words):
    given = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", folder, *given, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_commit_is_that_of_git(tmp_path):
    main, other = tmp_path / "main", tmp_path / "other"
    main.mkdir()
    assert commit_of(main) is None
    git(main, "init", "-q")
    git(main, "commit", "-q", "--allow-empty", "-m", "one")
    first = git(main, "rev-parse", "HEAD")
    assert commit_of(main) == first
    git(main, "worktree", "add", "-q", str(other), "-b", "other")
    git(other, "commit", "-q", "--allow-empty", "-m", "two")
    second = git(other, "rev-parse", "HEAD")
    assert (commit_of(main), commit_of(other)) == (first, second)
    git(main, "pack-refs", "--all")
    assert (commit_of(main), commit_of(other)) == (first, second)
    git(main, "checkout", "-q", "--detach", second)
    assert commit_of(main) == second
