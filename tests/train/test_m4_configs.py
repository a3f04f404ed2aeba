"""The rows of the paper that balanced data: what differs between them, and nothing else."""

from pathlib import Path

import pytest

from bias_clip.train.config import validate
from bias_clip.train.config_io import load_config, to_plain
from configs import clip_m4, siglip_b16, siglip_b16_m4

CONFIGS = Path(siglip_b16_m4.__file__).parent
ROWS = ("plain,0", "balanced,10", "balanced,90", "balanced,100", "proxies,100", "balanced_last,90")


@pytest.mark.parametrize("row", ROWS)
def test_rows_differ_from_the_baseline_in_the_data_alone(row):
    config = to_plain(load_config(CONFIGS / "siglip_b16_m4.py", row))
    base = to_plain(load_config(CONFIGS / "siglip_b16_m4.py", "plain,0"))
    assert (config["data"].pop("balance") is None) == (row == "plain,0")
    base["data"].pop("balance")
    assert config == base


@pytest.mark.parametrize("module", [siglip_b16_m4, clip_m4])
def test_keys_are_those_of_the_schema(module):
    config = module.get_config()
    config.data.text.tokenizer = "emoji"  # yours
    validate(config)


def test_the_baseline_is_siglip_with_evaluators():
    config, base = to_plain(siglip_b16_m4.get_config("plain,0")), to_plain(siglip_b16.get_config())
    for some in (config, base):
        some.pop("evals")
        some["data"]["source"].pop("path")
        some["data"].pop("balance")
    assert config == base


def test_percent_is_how_long_the_first_stage_lasts():
    for row, first, switch in (
        ("balanced,10", "balanced", "10%"),
        ("balanced_last,90", "plain", "90%"),
        ("proxies,100", "balanced", None),
    ):
        balance = siglip_b16_m4.get_config(row).data.balance
        assert (balance.first, balance.switch) == (first, switch)
    assert balance.table.endswith("/proxies.parquet")


@pytest.mark.parametrize("row", ["S/32,384,plain,0", "B/16,768,balanced_last,10"])
def test_grid_of_clip_sets_size_patch_and_width(row):
    config = load_config(CONFIGS / "clip_m4.py", row)
    size, width, _ = row.split(",", 2)
    assert list(config.objective) == ["softmax"]
    assert config.model.image.variant == size
    assert config.model.text.variant == size[0]
    assert config.model.text.out_dim == int(width)


@pytest.mark.parametrize(
    ("module", "row"),
    [
        *((siglip_b16_m4, row) for row in ("balanced", "plain,10", "balanced,0", "balanced,101")),
        *((siglip_b16_m4, row) for row in ("balanced_last,100", "fair,10")),
        *((clip_m4, row) for row in ("B/16", "L/16,768,plain,0", "B/16,512,plain,0")),
    ],
)
def test_other_arguments_are_refused(module, row):
    with pytest.raises(ValueError, match="after the colon"):
        module.get_config(row)
