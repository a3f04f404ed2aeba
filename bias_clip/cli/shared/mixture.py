"""The average of two models of one architecture."""

from typing import Any

import jax

from bias_clip.data.image import read_ops
from bias_clip.data.text import make_text_fn
from bias_clip.train.config_io import to_plain
from bias_clip.train.sharding import path_name
from bias_clip.train.workdir.load_run import Trained
from bias_clip.train.workdir.published_start import defaults_of


def mix(first: Trained, second: Trained, weight: float) -> Trained:
    """Returns `first` with the parameters `(1 - weight) * first + weight * second`.

    Args:
      first, second: from `load_model`.
      weight: of the second.

    Raises:
      ValueError: parameters, activations, preprocessing or texts differ; says which.
    """
    _check_same(first, second)
    ours = jax.tree.leaves(first.params)
    # Shardings of two runs may differ; the first's are those of its model.
    theirs = [
        jax.device_put(y, x.sharding)
        for x, y in zip(ours, jax.tree.leaves(second.params), strict=True)
    ]
    mixed = [(1 - weight) * x + weight * y for x, y in zip(ours, theirs, strict=True)]
    # The evaluators are the second's: a published checkpoint, usually the first, has none.
    return first._replace(
        params=jax.tree.unflatten(jax.tree.structure(first.params), mixed),
        config=_with_evaluators(first, second),
    )


def _with_evaluators(first: Trained, second: Trained) -> Any:
    config = first.config.copy_and_resolve_references()
    with config.unlocked():
        config.evals = second.config.evals or first.config.evals
    return config


def _check_same(first: Trained, second: Trained) -> None:
    shapes = [
        {path_name(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(model.params)}
        for model in (first, second)
    ]
    if differ := sorted(k for k in shapes[0] | shapes[1] if shapes[0].get(k) != shapes[1].get(k)):
        raise ValueError(
            f"{first.workdir} and {second.workdir} are of different architectures: {differ[0]} has shape "
            f"{shapes[0].get(differ[0])} and {shapes[1].get(differ[0])}; expected equal ones."
        )
    a, b = (to_plain(model.config) for model in (first, second))
    pairs = {
        f"{tower}.{key}": [(x["model"][tower] or {}).get(key) for x in (a, b)]
        for tower in ("image", "text")
        for key in ("activation", "mask", "pool")
    }
    # Paths of equal vocabularies may differ between a run and its checkpoint; sizes were compared above.
    texts = [{**defaults_of(make_text_fn), **(x["data"]["text"] or {})} for x in (a, b)]
    for text in texts:
        text.pop("tokenizer", None)
    pairs |= {f"texts.{key}": [text.get(key) for text in texts] for key in texts[0] | texts[1]}
    pairs["images"] = [read_ops(x["evaluation"]["image"]) for x in (a, b)]
    if found := [key for key, (x, y) in pairs.items() if x != y]:
        x, y = pairs[found[0]]
        raise ValueError(
            f"{first.workdir} has {found[0]} {x!r}, {second.workdir} {y!r}; expected equal ones, because "
            "an average has only one of each."
        )
