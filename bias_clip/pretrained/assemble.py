"""All parameters of a model from the tensors of a file: all are checked, then placed one by one."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from bias_clip.models.two_towers import Model, make_model
from bias_clip.pretrained import leaves
from bias_clip.pretrained.files.read import Weights
from bias_clip.pretrained.layouts.describe import Described
from bias_clip.pretrained.layouts.table import Entry, names_in_file
from bias_clip.pretrained.leaves import Leaf, make_leaf, resampled

TOWERS = {"image": "img", "text": "txt"}


def make_leaves(
    described: Described,
    stored: dict[str, Any],
    wanted: dict[str, Any],
    only: str | None,
    weights: Weights,
) -> dict[str, Leaf]:
    """Every parameter of the model by path, all shapes checked."""
    try:
        model = make_model(**stored)
    except ValueError as error:  # add the file, which the model does not know
        file = next(iter(described.tensors.values())).file
        raise ValueError(f"{file}, with {described.source}: {error}") from error
    # Shapes alone: no parameter is initialised, so that memory holds only what the file gives.
    shapes = flat(jax.eval_shape(model.init, jax.random.key(0)))
    entries = {entry.ours: entry for entry in described.entries}
    found = {}
    for path, leaf in shapes.items():
        if path not in entries:
            raise ValueError(f"The {described.layout} layout has no place for our {path}.")
        found[path] = make_leaf(entries[path], leaf.shape, described.tensors, weights.release)
    # A tensor without a place means that the model would compute something else than it was trained for.
    _check_all_used(described, shapes, only)
    for what, tower in TOWERS.items():
        path = f"{tower}/pos_embedding"
        if path in found:
            found[path] = _resampled(found[path], what, described, stored[what], wanted[what])
    return found


def place_leaves(
    model: Model, found: Mapping[str, Leaf], shardings: Callable[[Any], Any] | None
) -> dict[str, Any]:
    """Arrays in the form of the model's tree."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    where = {} if shardings is None else flat(shardings(shapes))
    arrays = {path: leaves.place(leaf, where.get(path)) for path, leaf in found.items()}
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], shapes)


def _check_all_used(described: Described, shapes: Mapping[str, Any], only: str | None) -> None:
    used: set[str] = set()
    for entry in described.entries:
        other = only is not None and not entry.ours.startswith(f"{only}/")
        if entry.ours in shapes:
            used |= {*_names(entry, shapes[entry.ours].shape), entry.plus or entry.theirs}
        elif other:  # of the tower that is not loaded
            # The tower that is not loaded has an unknown depth, so any number stands for {i}.
            pattern = re.escape(entry.theirs).replace(r"\{i\}", r"\d+")
            used |= {name for name in described.tensors if re.fullmatch(pattern, name)}
    extra = [n for n in described.tensors if n not in used and not re.match(described.ignored, n)]
    if extra:
        tensor = described.tensors[extra[0]]
        raise ValueError(
            f"{tensor.file}: tensor {extra[0]!r} of shape {tensor.shape} has no place in the model, nor have "
            f"{len(extra) - 1} others; the model would not compute what it was trained for."
        )


def _names(entry: Entry, shape: tuple[int, ...]) -> Iterable[str]:
    return names_in_file(entry, shape[0] if shape else 1)


def _resampled(
    leaf: Leaf,
    what: str,
    described: Described,
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
) -> Leaf:
    key = "size" if what == "image" else "length"
    rule = described.resampling[0 if what == "image" else 1]
    # `type` and not isinstance, which would take True as a size of 1.
    if type(wanted[key]) is not int or wanted[key] < 1:
        raise ValueError(
            f"got {what} {key} {wanted[key]!r}; expected one positive integer. Images are square, those of a "
            "NaFlex checkpoint too: its other grids are not supported."
        )
    if stored[key] == wanted[key]:
        return leaf
    if rule is None:
        raise ValueError(
            f"got {what} {key} {wanted[key]}; the checkpoint has {stored[key]}, and {described.layout} does "
            f"not resample positions of a {what}; leave {key} out."
        )
    length = wanted[key]
    class_token = bool(stored.get("class_token"))
    if what == "image":
        patch = int(stored["variant"].partition("/")[2])
        if length % patch:
            raise ValueError(
                f"got image size {length}, which does not divide by the patch {patch}."
            )
        # A boolean counts as 0 or 1: the class token has a position of its own.
        length = (length // patch) ** 2 + class_token
    return resampled(leaf, what=what, class_token=class_token, length=length, rule=rule)


def flat(tree: Any) -> dict[str, Any]:
    """Maps paths to leaves."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
