"""`load_pretrained`: what is chosen, asked for, resampled, refused; and that devices read their part alone."""

import json

import jax
import numpy as np
import pytest

from bias_clip.models.vit import VARIANTS
from bias_clip.pretrained import leaves, load_pretrained
from bias_clip.pretrained.files import safetensors
from bias_clip.pretrained.layouts import hugging_face
from bias_clip.pretrained.layouts.describe import tower_arguments
from bias_clip.train.sharding import make_mesh, tree_shardings
from tests.pretrained.cases import GOLDEN, arrays, distance, edit_config, rewritten

SIGLIP, CLIP = "hf_siglip_bfloat16", "hf_clip_gelu_float16"
OPEN_CLIP = "oc_clip_quickgelu_float16"


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_config_is_what_makes_the_model():
    loaded = load_pretrained(GOLDEN / CLIP, dtype="bfloat16", remat="dots", scan=False)
    assert loaded.config["image"] == {
        **dict(variant="B/7", width=64, depth=2, mlp_dim=96, num_heads=2, size=28, out_dim=56),
        **dict(pool="class", class_token=True, pre_norm=True, patch_bias=False, head_bias=False),
        **dict(activation="gelu", epsilon=1e-5),
    }
    assert loaded.config["text"]["pool"] == "eos"
    assert loaded.config["text"]["eos_id"] == 129
    assert loaded.config["bias_init"] is None
    assert (loaded.config["dtype"], loaded.config["remat"]) == ("bfloat16", "dots")
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {np.dtype("float32")}
    assert loaded.origin["files"] == ["model.safetensors", "config.json"]


def test_sizes_that_have_a_name_get_it():
    for name, sizes in VARIANTS.items():
        assert tower_arguments(sizes._asdict() | {"patch": 16}) == {"variant": f"{name}/16"}


@pytest.mark.parametrize("tower", ["img", "txt"])
@pytest.mark.parametrize("file", ["bv_i18n_no_head/model.npz", f"{CLIP}/model.safetensors"])
def test_a_suffix_loads_one_tower(tower, file):
    whole = load_pretrained(GOLDEN / file)
    alone = load_pretrained(f"{GOLDEN / file}:{tower}")
    same(alone.params, {tower: whole.params[tower]})
    assert alone.config["text" if tower == "img" else "image"] is None


def test_params_prefix_and_optimizer_leaves_are_as_nothing(tmp_path):
    tensors = arrays(GOLDEN / "bv_i18n_no_head" / "model.npz")
    expected = load_pretrained(GOLDEN / "bv_i18n_no_head").params
    more = {"opt/mu/img/pos_embedding": np.zeros(3, np.float32)}
    np.savez(tmp_path / "x.npz", **{f"params/{name}": x for name, x in tensors.items()}, **more)
    same(load_pretrained(tmp_path / "x.npz").params, expected)
    np.savez_compressed(tmp_path / "y.npz", **tensors)
    same(load_pretrained(tmp_path / "y.npz").params, expected)


def test_listed_layers_are_scanned_layers_in_order(tmp_path):
    tensors = arrays(GOLDEN / "bv_i18n_no_head" / "model.npz")
    scanned = {name: x for name, x in tensors.items() if "/encoderblock/" in name}
    listed = {name: x for name, x in tensors.items() if name not in scanned}
    repeat = 6  # of two layers: 12, so that 10 comes after 9 and not after 1
    for name, x in scanned.items():
        for i in range(2 * repeat):
            scale = np.float32(1 + i // 2)
            listed[name.replace("encoderblock", f"encoderblock_{i}")] = x[i % 2] * scale
    np.savez(tmp_path / "x.npz", **listed)
    got = load_pretrained(tmp_path / "x.npz").params["img"]["encoder"]["blocks"]["norm1"]["scale"]
    two = load_pretrained(GOLDEN / "bv_i18n_no_head").params["img"]["encoder"]["blocks"]
    expected = [np.asarray(two["norm1"]["scale"])[i % 2] * (1 + i // 2) for i in range(2 * repeat)]
    np.testing.assert_array_equal(got, expected)


def test_shards_are_the_whole_and_must_fit_their_index(tmp_path):
    tensors = arrays(GOLDEN / SIGLIP / "model.safetensors")
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {name: files[i % 2] for i, name in enumerate(sorted(tensors))}
    for file in files:
        part = {name: tensors[name] for name, its in where.items() if its == file}
        safetensors.write(tmp_path / file, part, {})
    (tmp_path / "config.json").write_bytes((GOLDEN / SIGLIP / "config.json").read_bytes())
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    same(load_pretrained(tmp_path).params, load_pretrained(GOLDEN / SIGLIP).params)
    where["logit_scale"] = files[0] if where["logit_scale"] == files[1] else files[1]
    index.write_text(json.dumps({"weight_map": where}))
    with pytest.raises(ValueError, match="tensor 'logit_scale' is in model-"):
        load_pretrained(tmp_path)


def test_images_and_texts_come_with_their_rules(tmp_path):
    loaded = load_pretrained(GOLDEN / CLIP)
    assert (loaded.preprocess.size, loaded.preprocess.resize) == (28, "shortest")
    assert loaded.tokenizer is None  # 130 ids are not the vocabulary of CLIP
    assert "no vocabulary" in loaded.notes[-1]
    with pytest.raises(ValueError, match="has 49408 ids, the model's table 130 rows"):
        load_pretrained(GOLDEN / CLIP, tokenizer="clip")
    alone = load_pretrained(f"{GOLDEN / CLIP / 'model.safetensors'}:img")
    assert (alone.tokenizer, alone.notes) == (None, ())

    def with_all_ids(tensors):
        name = "token_embedding.weight"
        tensors[name] = np.resize(tensors[name], (49_408, tensors[name].shape[1]))

    weights, config = "open_clip_model.safetensors", "open_clip_config.json"
    path = rewritten(tmp_path, OPEN_CLIP, with_all_ids, weights, config)
    ids = load_pretrained(path).tokenizer.encode(["a dog"])
    np.testing.assert_array_equal(ids[0, :5], [49_406, 320, 1929, 49_407, 0])
    assert ids.shape == (1, 12)


def test_what_no_file_says_is_asked_for_by_name(tmp_path):
    path = rewritten(tmp_path, CLIP, lambda _: None, config=None)
    with pytest.raises(ValueError, match=r"num_heads, activation of the image tower.*config\.json"):
        load_pretrained(path)
    image = {"num_heads": 2, "activation": "gelu"}
    with pytest.raises(ValueError, match=r"text=dict\(num_heads=..., activation=..., pool=...\)"):
        load_pretrained(path, image=image)
    text = {"num_heads": 4, "activation": "gelu", "pool": "eos", "eos_id": 129}
    got, expected = load_pretrained(path, image=image, text=text), load_pretrained(GOLDEN / CLIP)
    assert got.config == expected.config
    same(got.params, expected.params)


def test_heads_of_open_clip_are_in_its_config(tmp_path):
    path = rewritten(
        tmp_path, OPEN_CLIP, lambda _: None, "open_clip_model.safetensors", "open_clip_config.json"
    )
    expected = load_pretrained(GOLDEN / OPEN_CLIP).config
    assert load_pretrained(path).config == expected
    assert expected["image"]["num_heads"] == 2
    assert expected["image"]["activation"] == expected["text"]["activation"] == "quick_gelu"


def _without(name):
    return lambda tensors: {key: x for key, x in tensors.items() if key != name}


LAYER = "vision_model.encoder.layers.1.mlp.fc1.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without(LAYER), rf"model\.safetensors: tensor '{LAYER}' is missing"),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), "tensor 'extra' .* no place"),
        (lambda t: t.update({LAYER: t[LAYER].T}), rf"tensor '{LAYER}' has shape .*; expected"),
        (
            lambda t: t.update({LAYER: t[LAYER].astype(np.int32)}),
            rf"tensor '{LAYER}' holds int32; expected floating",
        ),
        (lambda t: {"a": t[LAYER]}, "holds a .*; expected the names of a SigLIP or CLIP"),
    ],
)
def test_tensors_that_do_not_fit_are_named_before_anything_is_read(
    tmp_path, monkeypatch, change, message
):
    path = rewritten(tmp_path, SIGLIP, change)
    monkeypatch.setattr(leaves, "place", lambda *_: pytest.fail("read"))
    with pytest.raises(ValueError, match=message):
        load_pretrained(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["vision_config"].update(hidden_act="silu"), "activation hidden_act 'silu'"),
        (lambda c: c["text_config"].update(num_hidden_layers=10**9), "claims 1000000000 layers"),
        (lambda c: c["text_config"].update(hidden_size="48"), "hidden_size is '48'"),
        (
            lambda c: c["vision_config"].update(intermediate_size=96),
            "tensor .* has shape .*; expected",
        ),
        (
            lambda c: c["vision_config"].update(hidden_size=96),
            r"config\.json: The towers must end in one",
        ),
        (lambda c: c["vision_config"].update(vision_use_head=False), "vision_use_head false"),
        (lambda c: c.update(model_type="blip"), "model_type 'blip'; expected one of siglip"),
        (lambda c: c.update(text_config=3), "text_config is 3; expected a table"),
    ],
)
def test_configs_that_cannot_be_are_named(tmp_path, change, message):
    path = rewritten(tmp_path, SIGLIP, lambda _: None)
    edit_config(path / "config.json", change)
    with pytest.raises(ValueError, match=message):
        load_pretrained(path)


def test_old_configs_mean_what_transformers_makes_of_them():
    for name, case in json.loads((GOLDEN / "hf_configs.json").read_text()).items():
        kind = case["means"]["model_type"]
        for which, defaults in zip(("vision", "text"), hugging_face.DEFAULTS[kind], strict=True):
            got = defaults | hugging_face._section(case["given"], which)
            for key in set(got) & set(case["means"][which]):
                assert got[key] == case["means"][which][key], (name, which, key)


def test_another_size_resamples_the_grid_and_keeps_the_class_token():
    small = load_pretrained(GOLDEN / CLIP)
    large = load_pretrained(GOLDEN / CLIP, image={"size": 42})
    old, new = (np.asarray(x.params["img"]["pos_embedding"]) for x in (small, large))
    assert (old.shape, new.shape) == ((1, 17, 64), (1, 37, 64))
    np.testing.assert_array_equal(new[:, 0], old[:, 0])
    assert distance(new[0, 1:].mean(0), old[0, 1:].mean(0)) < 0.5
    rest = [
        {k: v for k, v in x.params["img"].items() if k != "pos_embedding"} for x in (small, large)
    ]
    same(*rest)
    shapes = jax.eval_shape(
        large.model.features, large.params, np.zeros((2, 42, 42, 3), np.float32)
    )
    assert shapes.image.shape == (2, 56)


@pytest.mark.parametrize(
    ("folder", "arguments", "message"),
    [
        (CLIP, {"image": {"size": 30}}, "size 30"),
        (CLIP, {"text": {"length": 20}}, "does not resample positions of a text"),
        (CLIP, {"image": {"heads": 2}}, "image has 'heads'; expected one of"),
        ("missing", {}, "no file or folder"),
        ("positions", {}, "0 files of weights in a known layout"),
    ],
)
def test_what_cannot_be_loaded_is_named(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_pretrained(GOLDEN / folder, **arguments)


def test_naflex_loads_at_a_square_grid_alone(tmp_path):
    naflex = GOLDEN / "hf_siglip2_naflex"
    whole = load_pretrained(naflex)
    assert (whole.config["image"]["size"], whole.config["image"]["variant"]) == (16, "B/4")
    for size in ((16, 32), [16, 16], "16", True, 0):
        with pytest.raises(
            ValueError, match=r"image size .*NaFlex checkpoint too: its other grids"
        ):
            load_pretrained(naflex, image={"size": size})
    path = rewritten(tmp_path, "hf_siglip2_naflex", lambda _: None)
    edit_config(path / "config.json", lambda c: c["vision_config"].update(num_patches=12))
    with pytest.raises(ValueError, match=r"'num_patches' has 12 positions, which is not a square"):
        load_pretrained(path)


def test_a_naflex_file_of_big_vision_has_rows_and_columns(tmp_path):
    tensors = arrays(GOLDEN / "bv_bfloat16" / "model.npz")
    expected = load_pretrained(GOLDEN / "bv_bfloat16").params
    kernel, grid = tensors["img/embedding/kernel"], tensors["img/pos_embedding"]
    tensors["img/embedding/kernel"] = kernel.reshape(-1, kernel.shape[-1])
    side = round(grid.shape[1] ** 0.5)
    for rows in (side, side // 2):
        tensors["img/pos_embedding"] = grid.reshape(rows, -1, grid.shape[-1])
        np.savez(tmp_path / f"{rows}.npz", **tensors)
    same(load_pretrained(tmp_path / f"{side}.npz").params, expected)
    with pytest.raises(
        ValueError, match=r"NaFlex model has a grid of . x .*; expected a square one"
    ):
        load_pretrained(tmp_path / f"{side // 2}.npz")


def test_texts_of_open_clip_are_resampled():
    loaded = load_pretrained(GOLDEN / OPEN_CLIP, text={"length": 20})
    assert loaded.params["txt"]["pos_embedding"].shape == (1, 20, 48)


def test_each_device_of_an_fsdp_mesh_reads_its_part_alone(monkeypatch):
    mesh = make_mesh(data=1, fsdp=8)
    monkeypatch.setattr("bias_clip.train.sharding.MIN_FSDP_SIZE", 1)
    seen = []
    empty = leaves._empty
    monkeypatch.setattr(leaves, "_empty", lambda shape: seen.append(shape) or empty(shape))
    loaded = load_pretrained(
        GOLDEN / SIGLIP, shardings=lambda tree: tree_shardings(tree, ((".*", "fsdp"),), mesh)
    )
    same(loaded.params, load_pretrained(GOLDEN / SIGLIP).params)
    blocks = loaded.params["img"]["encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
    assert blocks.sharding.shard_shape(blocks.shape) == (2, 48, 9)
    assert seen.count((2, 48, 9)) == 16  # eight parts of each tower's, and no whole
    assert (2, 48, 72) not in seen[: seen.index((2, 48, 9))]


def test_one_part_of_a_replicated_parameter_is_read_once(monkeypatch):
    mesh = make_mesh(data=8)
    reads = []
    copy = leaves._copy
    monkeypatch.setattr(leaves, "_copy", lambda *args: reads.append(1) or copy(*args))
    rules = ((".*", "replicate"),)
    load_pretrained(GOLDEN / CLIP, shardings=lambda tree: tree_shardings(tree, rules, mesh))
    replicated = len(reads)
    reads.clear()
    load_pretrained(GOLDEN / CLIP)
    assert replicated == len(reads)
