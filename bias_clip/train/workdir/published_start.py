"""A run that starts from a published checkpoint: its parameters, and how the config differs from it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from bias_clip.core.storage import is_run, run_folder
from bias_clip.data.image import read_ops
from bias_clip.data.text import make_text_fn
from bias_clip.models.text import TextTransformer
from bias_clip.models.vit import ViT
from bias_clip.pretrained import Loaded, inspect_pretrained, load_pretrained
from bias_clip.pretrained.place import INDEX, WEIGHTS, split_tower
from bias_clip.train.config_io import to_plain
from bias_clip.train.sharding import path_name, tree_shardings
from bias_clip.train.workdir.chosen import check_shapes, select

_TOWERS: dict[str, tuple[Callable, str]] = {
    "image": (ViT, "size"),
    "text": (TextTransformer, "length"),
}
_HOW = ("remat", "scan", "attention", "dtype")  # how the model is computed, not what


def is_published(path: str) -> bool:
    """Whether a path is that of a published checkpoint, and not a run's; told by what is there."""
    if path.startswith("hf:/"):
        return True
    folder = run_folder(split_tower(path)[0])
    if is_run(path) or not folder.exists():
        return False
    if not folder.is_dir():
        return True
    return any(file.name.endswith((*WEIGHTS, INDEX)) for file in folder.iterdir())


def load_published(
    abstract_params: Any,
    config: Any,
    *,
    path: str,
    step: int | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    image: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
) -> tuple[dict[str, jax.Array], str, dict[str, Any]]:
    """Reads parameters of a published checkpoint for the model of a run.

    Positions are resampled if the config has another `size` or `length`. Whatever else of model,
    preprocessing and tokenizer differs between config and checkpoint is an override, which is said.

    Args:
      abstract_params: of the model to fill, with the shardings that the arrays shall have.
      config: of the run.
      path: as for `load_pretrained`.
      step: must be None, because only runs have steps.
      only, skip: as for `load_params`.
      image, text, tokenizer: what the checkpoint does not state, as for `load_pretrained`.

    Returns:
      ({path of a parameter: array}, the text to log, what start.json says of the checkpoint).

    Raises:
      ValueError: as `load_pretrained`; shapes differ, or nothing matches.
    """
    if step is not None:
        raise ValueError(f"init_from: got step={step}, but {path} is not a run; leave it out.")
    given = {"image": dict(image or {}), "text": dict(text or {})}
    # Read without its arrays, to learn how it differs; the sizes of the config are then asked for.
    stated = inspect_pretrained(path, image=given["image"], text=given["text"], tokenizer=tokenizer)
    for tower, (_, length) in _TOWERS.items():
        if stated.config[tower] is not None and config.model[tower] is not None:
            given[tower][length] = config.model[tower][length]
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params)
    mesh = leaves[0][1].sharding.mesh
    loaded = load_pretrained(
        path,
        image=given["image"],
        text=given["text"],
        tokenizer=tokenizer,
        shardings=lambda tree: tree_shardings(tree, config.sharding, mesh),
        fingerprint=True,
    )
    shapes = {path_name(where): tuple(leaf.shape) for where, leaf in leaves}
    arrays = {path_name(w): x for w, x in jax.tree_util.tree_leaves_with_path(loaded.params)}
    wanted = select(list(shapes), only, skip)
    found = {name: arrays[name] for name in wanted if name in arrays}
    check_shapes({n: shapes[n] for n in found}, {n: tuple(x.shape) for n, x in found.items()})
    if not found:
        raise ValueError(f"init_from: none of {len(wanted)} parameters is in {path}.")
    said = [
        f"{len(found)} of {len(shapes)} parameters come from it; "
        f"{len(shapes) - len(wanted)} left out by only and skip; not in it "
        f"{[name for name in wanted if name not in arrays]}; in it, but not in this model "
        f"{[name for name in arrays if name not in shapes]}.",
        *loaded.notes,
        *(f"override: {text}" for text in differences(config, stated)),
    ]
    origin = {**loaded.origin, "family": loaded.family, "layout": loaded.layout, "said": said}
    return found, "\n".join(f"init_from {path}: {text}" for text in said), origin


def differences(config: Any, loaded: Loaded) -> list[str]:
    """Says where a config differs from a checkpoint: the towers, the preprocessing, the tokenizer."""
    plain = to_plain(config)
    found = []
    for tower, (module, _) in _TOWERS.items():
        if loaded.config[tower] is not None and plain["model"][tower] is not None:
            defaults = defaults_of(module)
            theirs, ours = ({**defaults, **t[tower]} for t in (loaded.config, plain["model"]))
            found += _differing(f"model.{tower}", ours, theirs)
    if loaded.preprocess is not None:
        found += _differing_images(plain, loaded.preprocess.ops)
    if loaded.tokenizer is not None:
        defaults = defaults_of(make_text_fn)
        ours, theirs = ({**defaults, **t} for t in (plain["data"]["text"], loaded.tokenizer.rules))
        found += _differing("data.text", ours, theirs)
    return found


def _differing_images(plain: Mapping[str, Any], stated: str) -> list[str]:
    """Of the evaluation all operations; training may augment, but the scaling belongs to the weights."""
    found, theirs, used = [], read_ops(stated), plain["evaluation"]["image"]
    if read_ops(used) != theirs:
        found.append(_line("evaluation.image", used, stated))
    if (ours := read_ops(plain["data"]["image"])[-1]) != theirs[-1]:
        found.append(_line("the last operation of data.image", ours, theirs[-1]))
    return found


def defaults_of(function: Callable) -> dict[str, Any]:
    """The arguments that a function has when a config does not state them."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _differing(where: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    keys = [key for key in {**ours, **theirs} if key not in _HOW]
    return [
        _line(f"{where}.{key}", ours.get(key), theirs.get(key))
        for key in keys
        if ours.get(key) != theirs.get(key)
    ]


def _line(key: str, ours: Any, theirs: Any) -> str:
    return f"{key} is {ours!r}, in place of the checkpoint's {theirs!r}."
