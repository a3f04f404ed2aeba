"""Training from a published checkpoint: what comes from it, what a frozen tower costs, an exact continuation."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip.data.image import read_ops
from bias_clip.plan.flops import count_flops
from bias_clip.pretrained import inspect_pretrained, load_pretrained
from bias_clip.report.run_page import render, run_facts
from bias_clip.report.run_read import read_run
from bias_clip.train.accumulate import make_gradient
from bias_clip.train.config import validate
from bias_clip.train.config_io import load_config
from bias_clip.train.loop import train
from bias_clip.train.model import towers_apart
from bias_clip.train.objective import make_objective
from bias_clip.train.optim import frozen_leaves
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_layout, make_mesh
from bias_clip.train.workdir import initial_state
from bias_clip.train.workdir.load_model import adopt
from bias_clip.train.workdir.load_run import load_run
from bias_clip.train.workdir.published_start import differences
from configs.finetune import get_config
from configs.finetune_stages import get_config as stages_config
from tests.pretrained.cases import GOLDEN
from tests.tools.runs import make_published
from tests.train.tiny import tiny_config, use_squares

OPS = "decode|drop_alpha|resize(16,method=bilinear)|value_range(-1.0,1.0)"
CLIP = GOLDEN / "oc_clip_quickgelu_float16"


@pytest.fixture(autouse=True)
def squares(monkeypatch):
    use_squares(monkeypatch)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A big_vision file with its vocabulary."""
    with pytest.MonkeyPatch.context() as patch:
        use_squares(patch)
        return make_published(tmp_path_factory.mktemp("published"))[1]


def finetune(argument, **changes):
    config = get_config(argument)
    tiny = tiny_config()
    for key in ("total", "batch_size", "log_every", "evals", "checkpoint", "evaluation"):
        image = config.evaluation.image
        config[key] = tiny[key]
        config.evaluation.image = image
    config.data.source = dict(name="squares")
    config.update_from_flattened_dict({k.replace("__", "."): x for k, x in changes.items()})
    validate(config)
    return config


def leaves(tree):
    return {
        jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def same(a, b):
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.slow
def test_a_finetuned_run_says_where_it_came_from_and_continues_bit_for_bit(published, tmp_path):
    checkpoint = shutil.copytree(published.parent, tmp_path / "copy") / "model.npz"
    short = dict(total="4 steps", checkpoint__every="2 steps", evals={})
    config = finetune(f"{checkpoint},lit", optimizer__lr=1e-3, **short)
    train(config, tmp_path / "whole", command="")
    start = json.loads((tmp_path / "whole" / "start.json").read_text())
    assert start["family"] == "siglip"
    assert len(start["sha256"]["model.npz"]) == 64
    facts = dict(run_facts(read_run(tmp_path / "whole")))
    assert facts["started from"] == str(checkpoint)
    assert start["sha256"]["model.npz"] in render(read_run(tmp_path / "whole"))
    whole, before = load_run(tmp_path / "whole").params, load_pretrained(checkpoint).params
    same(whole["img"], before["img"])  # LiT
    assert not np.array_equal(whole["txt"]["embedding"], before["txt"]["embedding"])
    # A run that was killed after step 2 has no later checkpoint; the weights have gone meanwhile.
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "4")
    checkpoint.unlink()
    train(config, tmp_path / "killed", command="")
    same(load_run(tmp_path / "killed").params, whole)
    assert json.loads((tmp_path / "killed" / "start.json").read_text()) == start


@pytest.mark.parametrize("tower", ["img", "txt"])
@pytest.mark.parametrize("mode", ["none", "cached"])
def test_a_frozen_tower_has_no_backward_pass_and_no_optimiser_state(published, tower, mode):
    accumulation = dict(mode=mode, steps=1)
    flops, states, counts = {}, {}, {}
    for freeze in ((), (f"^{tower}/",)):
        config = finetune(str(published), optimizer__freeze=freeze)
        config.accumulation = accumulation
        setup = make_setup(config, mesh=make_mesh(), examples_per_epoch=40)
        flops[freeze] = count_flops(setup.train_step, setup.abstract_state, setup.abstract_batch)
        states[freeze] = sum(x.size for x in jax.tree.leaves(setup.abstract_state.opt_state))
    params = setup.abstract_state.params
    counts = {name: sum(x.size for x in jax.tree.leaves(params[name])) for name in ("img", "txt")}
    assert states[()] - states[freeze] >= 2 * counts[tower]  # Adam's two moments
    inputs = {
        "img": dict(image=jax.ShapeDtypeStruct((16, 16, 16, 3), jnp.float32)),
        "txt": dict(text=jax.ShapeDtypeStruct((16, 8), jnp.int32)),
    }
    forward = count_flops(lambda p: setup.model.apply(p, **inputs_of(inputs[tower])), params)
    # Twice the forward pass, except the gradient by the input of the first matrix.
    assert flops[()] - flops[freeze] > 1.7 * forward


def inputs_of(shapes):
    return {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "microbatch", "cached"])
def test_the_gradient_of_what_is_trained_does_not_depend_on_what_is_frozen(published, mode):
    config, mesh = finetune(str(published)), make_mesh()
    setup = make_setup(config, mesh=mesh, examples_per_epoch=40)
    params = setup.init(jax.random.key(0)).params
    rng = np.random.default_rng(0)
    shapes = setup.abstract_batch.items()
    batch = {name: rng.integers(0, 200, x.shape).astype(x.dtype) for name, x in shapes}
    grads = {}
    for tower in (None, "img", "txt"):
        frozen = frozen_leaves(params, freeze=[f"^{tower}/"] if tower else [])
        gradient = make_gradient(
            apply=towers_apart(setup.apply) if tower else setup.apply,
            objective=make_objective(config.objective.to_dict(), mesh),
            mesh=mesh,
            layout=make_layout(jax.tree.map(lambda x: x.sharding, setup.abstract_state.params)),
            frozen=frozen,
            mode=mode,
            steps=1 if mode == "none" else 2,
        )
        grads[tower] = jax.jit(gradient)(params, batch).grads
    for tower in ("img", "txt"):
        for name, of_all in grads[None].items():
            expected = jax.tree.map(jnp.zeros_like, of_all) if name == tower else of_all
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6, rtol=1e-4),
                grads[tower][name],
                expected,
            )


def test_pixels_are_normalized_on_the_device_as_the_checkpoint_says():
    config = tiny_config()
    adopt(config, inspect_pretrained(CLIP))
    assert config.model.bias_init is None
    assert "normalize" in config.data.image
    setup = make_setup(config, mesh=make_mesh(), examples_per_epoch=40)
    pixels = np.zeros((2, config.model.image.size, config.model.image.size, 3), np.uint8)
    params = setup.init(jax.random.key(0)).params
    mean, std = (np.array(x, np.float32) for x in _normalize(config.data.image))
    expected = setup.model.apply(
        params, image=jnp.asarray((pixels / 255 - mean) / std, jnp.float32)
    )
    np.testing.assert_allclose(
        setup.apply(params, jnp.asarray(pixels), None).zimg, expected.zimg, atol=1e-5
    )


def _normalize(ops):
    name, arguments = read_ops(ops)[-1]
    assert name == "normalize"
    return arguments["mean"], arguments["std"]


def test_a_checkpoint_without_a_vocabulary_is_refused_by_name():
    with pytest.raises(ValueError, match="no vocabulary beside the weights: give tokenizer"):
        get_config(str(CLIP))


@pytest.mark.parametrize(
    ("argument", "cells", "path"),
    [("0,{}", False, "{}"), ("1,{},lit", True, "{}"), ("1,init,{}", True, "")],
)
def test_stages_start_from_a_checkpoint_or_from_a_run(published, argument, cells, path):
    config = stages_config(argument.format(published))
    validate(config)
    assert config.init_from.path == path.format(published)
    assert (config.data.cells is not None) == cells
    assert bool(config.optimizer.freeze) == ("lit" in argument)


def test_an_override_is_named(published):
    config = finetune(str(published))
    stated = inspect_pretrained(published)
    assert differences(config, stated) == []
    config.data.text.lower, config.model.image.pool = True, "gap"
    config.evaluation.image = "decode|resize(16)|value_range(0,1)"
    found = "\n".join(differences(config, stated))
    for key in ("data.text.lower is True", "model.image.pool is 'gap'", "evaluation.image is"):
        assert key in found


def test_another_length_is_resampled_or_refused_and_wrong_words_are_named(published, tmp_path):
    config = finetune(str(published), data__text__length=8)
    config.model.image.size = 32
    setup = make_setup(config, mesh=make_mesh(), examples_per_epoch=40)
    found, report, origin = initial_state.load_published(
        setup.abstract_state.params, config, path=str(published)
    )
    assert found["img/pos_embedding"].shape[-2] == 16
    assert "model.image.size is 32, in place of the checkpoint's 16" in report
    assert origin["path"] == str(published)
    for words in ("", f"{published},bogus", f"{published},lit,slow_image"):
        with pytest.raises(ValueError, match="after the colon"):
            load_config("configs/finetune.py", words)
    with pytest.raises(ValueError, match="is not a run"):
        initial_state.load_published(
            setup.abstract_state.params, config, path=str(published), step=3
        )
