"""Values and gradients of the authors' code (and of written formulas), to 1e-9 in float64.

Where the files come from is told in tests/golden/README.md. `eps_supinfonce_in_2` records that the
authors' code is infinite for rows without positives; ours is 0 there.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip import losses
from bias_clip.losses import weighted_mean
from tests.losses.cases import compiled

GOLDEN = Path(__file__).parent.parent / "golden"
NOT_A_TARGET = {"eps_supinfonce_in_2"}


def _number(golden, name, default=None):
    return golden[name].item() if name in golden else default


def _siglip(x, g):
    images, texts, bias = x["image_features"], x["text_features"], x["logit_bias"]
    arguments = {"scale": x["logit_scale"], "bias": bias}
    if not g["negative_only"]:
        return weighted_mean(losses.sigmoid_loss(images, texts, **arguments))
    # A remote shard's texts: candidates of other rows, whose own pairs are taken off again.
    zimg = jnp.concatenate([images, jnp.zeros_like(texts)])
    ztxt = jnp.concatenate([jnp.zeros_like(images), texts])
    remote = jnp.repeat(jnp.array([0.0, 1.0]), len(images))
    rows = losses.sigmoid_loss(zimg, ztxt, **arguments, candidate_weights=remote)
    return weighted_mean(rows, 1 - remote) - jax.nn.softplus(-bias)


def _clip(x, g):
    images, texts, epsilon = x["image_features"], x["text_features"], _number(g, "epsilon", 0.0)
    rows = losses.softmax_loss(images, texts, scale=x["logit_scale"], epsilon=epsilon)
    return weighted_mean(rows)


def _supervised(loss, *names):
    """Views of an item are rows of one label, stacked view by view; a mask replaces labels."""

    def value(x, g):
        items, views, width = x["features"].shape
        z = x["features"].transpose(1, 0, 2).reshape(views * items, width)
        labels = jnp.tile(jnp.asarray(g.get("labels", np.arange(items))), views)
        arguments = {name: g[name].item() for name in ("temperature", "base_temperature", *names)}
        if "mask" in g:
            arguments["positives"] = jnp.tile(jnp.asarray(g["mask"] > 0), (views, views))
        rows = loss(z, labels, **arguments)
        first_view = jnp.asarray(np.arange(len(z)) < items, rows.dtype)
        return weighted_mean(rows, first_view if _number(g, "contrast_mode") == "one" else None)

    return value


def _views(g):
    """Arguments of the debiased losses of two views; without a correction the prior is 0."""
    corrected = _number(g, "debiased", True) and _number(g, "estimator") != "easy"
    prior = jnp.asarray(g["tau_plus"] if corrected else 0.0)
    hard = {"concentration": g["beta"].item()} if _number(g, "estimator") == "hard" else {}
    return hard | {
        "prior": prior.reshape(2, -1).T if prior.ndim else prior,
        "scale": 1 / g["temperature"].item(),
        "negatives": "both",
    }


def _debiased(x, g):
    arguments = _views(g)
    loss = losses.hard_debiased_loss if "concentration" in arguments else losses.debiased_loss
    return weighted_mean(loss(x["view1"], x["view2"], **arguments))


def _debiased_pairs(x, g):
    prior = jnp.stack([g["tau_plus_image"], g["tau_plus_text"]], axis=1)
    images, texts, scale = x["image_features"], x["text_features"], 1 / g["temperature"].item()
    return weighted_mean(losses.debiased_loss(images, texts, prior=prior, scale=scale))


def _fairkl(x, g):
    arguments = {"temperature": g["temperature"].item(), "kld": g["kld"].item()}
    ids = jnp.asarray(g["labels"]), jnp.asarray(g["bias_labels"])
    return losses.fairkl(x["features"], *ids, form="authors", chunk_size=5, **arguments)


FAMILIES = {
    "siglip": (5, _siglip),
    "clip": (5, _clip),
    "eps_clip": (3, _clip),
    "supcon": (5, _supervised(losses.supcon_loss)),
    "infonce": (3, _supervised(losses.supcon_loss)),
    "eps_supcon": (8, _supervised(losses.eps_supcon_loss, "epsilon", "log_guard")),
    "eps_supinfonce": (8, _supervised(losses.eps_supinfonce_loss, "epsilon", "log_guard")),
    "eps_supinfonce_exact": (4, _supervised(losses.eps_supinfonce_loss, "epsilon")),
    "eps_supinfonce_in": (3, _supervised(losses.eps_supinfonce_loss, "epsilon", "form")),
    "dcl": (5, _debiased),
    "ssd": (4, _debiased),
    "hcl": (6, _debiased),
    "ssd_twotower": (4, _debiased_pairs),
    "fairkl": (8, _fairkl),
}


FAIRKL_FORMS = {"kl": "", "jeffreys": "_jeffreys", "mean": "_mean_sq"}
EVERY_DAY = ("siglip_", "clip_", "eps_clip_")  # each file compiles a program of its own


def _files(*families):
    found = [p for p in sorted(GOLDEN.glob("*.npz")) if p.stem.rsplit("_", 1)[0] in families]
    marks = {p: () if p.stem.startswith(EVERY_DAY) else pytest.mark.slow for p in found}
    return [pytest.param(p, id=p.stem, marks=marks[p]) for p in found if p.stem not in NOT_A_TARGET]


def _load(path):
    return dict(np.load(path, allow_pickle=False))


def _check(value_of, golden, value="loss", suffix=""):
    """Compares a value and its gradient in every input that the file has a gradient of."""
    grads = {k.removeprefix("grad_"): v for k, v in golden.items() if k.startswith("grad_")}
    inputs = {name: jnp.asarray(golden[name]) for name in grads if name in golden}
    assert set(grads) - {"finite"} <= {n + s for n in inputs for s in FAIRKL_FORMS.values()}
    got, grad = compiled(jax.value_and_grad(value_of))(inputs)
    np.testing.assert_allclose(got, golden[value], rtol=1e-9, atol=1e-12)
    for name, x in grad.items():
        expected = grads[name + suffix]
        scale = max(np.abs(expected).max(), 1e-3)
        np.testing.assert_allclose(x / scale, expected / scale, rtol=0, atol=1e-9)


def test_no_golden_file_is_missing():
    for family, (count, _) in FAMILIES.items():
        assert len(list(GOLDEN.glob(f"{family}_[0-9].npz"))) == count, family


@pytest.mark.parametrize("path", _files(*FAMILIES))
def test_value_and_gradient(path, x64):
    golden = _load(path)
    _, value_of = FAMILIES[path.stem.rsplit("_", 1)[0]]
    _check(lambda x: value_of(x, golden), golden)


@pytest.mark.parametrize("path", _files("eps_supinfonce", "eps_supcon"))
def test_without_the_guard(path, x64):
    """The authors' formula with nothing added inside the logarithm, which is our default."""
    golden = _load(path)
    _, value_of = FAMILIES[path.stem.rsplit("_", 1)[0]]
    exact = golden | {"log_guard": np.float64(0)}
    got = compiled(lambda x: value_of(x, exact))({"features": jnp.asarray(golden["features"])})
    np.testing.assert_allclose(got, golden["loss_without_guard"], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_where_the_authors_code_is_infinite_a_row_without_positives_is_0(x64):
    golden = _load(GOLDEN / "eps_supinfonce_in_2.npz")
    assert not golden["loss_finite"]
    value_of = compiled(jax.value_and_grad(lambda x: FAMILIES["eps_supinfonce_in"][1](x, golden)))
    value, grad = value_of({"features": jnp.asarray(golden["features"])})
    assert jnp.isfinite(value)
    assert jnp.isfinite(grad["features"]).all()


@pytest.mark.parametrize("form", FAIRKL_FORMS)
@pytest.mark.parametrize("path", _files("fairkl_paper"))
def test_fairkl_as_in_the_paper(path, form, x64):
    golden, suffix = _load(path), FAIRKL_FORMS[form]
    ids = jnp.asarray(golden["labels"]), jnp.asarray(golden["bias_labels"])
    _check(
        lambda x: losses.fairkl(x["features"], *ids, form=form, chunk_size=5),
        golden,
        "loss" + suffix,
        suffix,
    )


@pytest.mark.parametrize("path", _files("dcl", "ssd", "hcl"))
def test_the_floor_binds_where_it_does_in_the_authors_code(path, x64):
    golden = _load(path)
    views = jnp.asarray(golden["view1"]), jnp.asarray(golden["view2"])
    got = compiled(lambda a, b: losses.debiased_floor(a, b, **_views(golden)))(*views)
    expected = golden["clamp_active"].reshape(2, -1).mean(axis=0)
    np.testing.assert_array_equal(got, expected)
