"""What the published recipe weighs, as far as it can be known without its compiler."""

from pathlib import Path

import jax
import pytest

from bias_clip.models.two_towers import count_parameters
from bias_clip.plan.flops import count_flops
from bias_clip.train.config_io import load_config, to_plain
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def siglip():
    config = load_config(CONFIGS / "siglip_b16.py")
    return config, make_setup(config, mesh=make_mesh(), examples_per_epoch=None)


def test_siglip_b16_has_the_published_number_of_parameters(siglip):
    assert count_parameters(siglip[1].abstract_state.params) == 203_155_970


def test_siglip_b16_sees_nine_billion_pairs(siglip):
    config, setup = siglip
    assert setup.total_steps == 274_658
    assert abs(setup.total_steps * config.batch_size - 9e9) < config.batch_size


def test_forward_flops_are_those_of_the_layers(siglip):
    _, setup = siglip
    batch, params = setup.abstract_batch, setup.abstract_state.params
    one = {name: jax.ShapeDtypeStruct((8, *x.shape[1:]), x.dtype) for name, x in batch.items()}
    got = count_flops(setup.apply, params, one["image"], one["text"]) / 8

    def encoder(tokens, width=768, depth=12):
        return depth * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)

    patches = 2 * 196 * 16 * 16 * 3 * 768
    pooling = 2 * 768**2 * (2 * 196 + 2 + 8) + 4 * 196 * 768
    expected = encoder(196) + encoder(64) + patches + pooling + 2 * 768**2
    assert got == pytest.approx(expected, rel=1e-6)


# These take the path of a published checkpoint; tests/train/test_finetune.py reads them.
OF_CHECKPOINTS = {"finetune", "finetune_stages"}


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(CONFIGS.glob("*.py")) if path.stem not in OF_CHECKPOINTS],
    ids=lambda path: path.stem,
)
def test_config_is_the_one_that_was_reviewed(path, golden_json):
    golden_json(f"config_{path.stem}", to_plain(load_config(path)))
