"""Published weights as a model of ours."""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bias_clip.models.two_towers import Model, make_model
from bias_clip.pretrained import big_vision, hugging_face, leaves, open_clip
from bias_clip.pretrained.describe import Described, read_json, tower_arguments
from bias_clip.pretrained.place import INDEX, Place, find_weights, open_place, split_tower
from bias_clip.pretrained.read import Weights, check_shards, read_weights, shard_names
from bias_clip.pretrained.table import Entry, names_in_file
from bias_clip.pretrained.tensors import Tensor

_TOWERS = {"image": "img", "text": "txt"}
_NEEDED = {
    "image": ("num_heads", "activation", "pool"),
    "text": ("num_heads", "activation", "mask", "pool"),
}
_DEFAULTS = {"mask": "none"}  # what a layout need not say, for the models it holds have no other


class Loaded(NamedTuple):
    """A published checkpoint.

    Attributes:
      model: as `make_model` gives it.
      params: in our tree, float32.
      config: the keyword arguments of `make_model`.
      layout: "big_vision", "hugging_face" or "open_clip".
      family: "siglip" or "clip".
      origin: the path as it was given, the files, and what tells their version, such as a commit.
      notes: what a user should know of this checkpoint.
    """

    model: Model
    params: dict[str, Any]
    config: dict[str, Any]
    layout: str
    family: str
    origin: dict[str, Any]
    notes: tuple[str, ...]


def load_pretrained(
    path: str | Path,
    *,
    image: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    shardings: Callable[[Any], Any] | None = None,
    dtype: str = "float32",
    remat: str = "none",
    scan: bool = True,
    attention: str = "xla",
) -> Loaded:
    """Loads a SigLIP or CLIP that was published in the layout of big_vision, Hugging Face or open_clip.

    The layout and the format are recognised by what the files hold. All shapes are compared before any
    number is read; then parameters are made one by one, and each device reads only its part.

    Args:
      path: of a file or a folder: on a disk, "gs://bucket/folder", "hf://owner/name" or
        "hf://owner/name@revision". A suffix ":img" or ":txt" loads that tower alone.
      image, text: arguments of `ViT` and `TextTransformer` that the files do not say, such as
        `num_heads`, `activation`, `mask` and `pool`, or that are to differ. Another `size` or `length` than
        that of the checkpoint resamples its positions, as the layout's library does (`positions`).
      shardings: from a tree of shapes to one of shardings, such as
        `lambda tree: tree_shardings(tree, config.sharding, mesh)`. None: the default device.
      dtype, remat, scan, attention: of `make_model`.

    Raises:
      ValueError: nothing is there; a file is damaged, hostile, or of no known layout; a tensor is missing,
        superfluous, or of another shape; an activation is unknown; or the files do not say what is needed,
        which the message then names.

    Example:
      loaded = load_pretrained("hf://google/siglip2-base-patch16-224")
      zimg = loaded.model.apply(loaded.params, image=pixels).zimg
    """
    where, only = split_tower(str(path))
    overrides = {"image": dict(image or {}), "text": dict(text or {})}
    rest = {"dtype": dtype, "remat": remat, "scan": scan, "attention": attention}
    with ExitStack() as stack:
        place = open_place(where, stack)
        name, weights = _choose(place)
        described = _describe(place, name, weights.tensors)
        stored, wanted = _configs(described, overrides, only, name, rest)
        found = _leaves(described, stored, wanted, only, weights)
        model = make_model(**wanted)
        params = _place(model, found, shardings)
    origin = {"path": str(path), "files": [name, described.source], **place.facts}
    notes = described.notes if "activation" not in {*overrides["image"], *overrides["text"]} else ()
    return Loaded(model, params, wanted, described.layout, described.family, origin, notes)


def _choose(place: Place) -> tuple[str, Weights]:
    """The file of weights: of several, the one with the names of a known layout."""
    names = find_weights(place)
    found = [(name, _read(place, name)) for name in names]
    if len(names) > 1:
        found = [(name, weights) for name, weights in found if _is_known(weights.tensors)]
    if len(found) != 1:
        raise ValueError(
            f"{place.label} holds {len(found)} files of weights in a known layout among {', '.join(names)}; "
            "give one by its path."
        )
    return found[0]


def _is_known(tensors: dict[str, Tensor]) -> bool:
    return any(layout.recognises(tensors) for layout in (big_vision, hugging_face, open_clip))


def _read(place: Place, name: str) -> Weights:
    if not name.endswith(INDEX):
        return read_weights([place.fetch(name)])
    index = place.fetch(name)
    names = shard_names(index)
    if absent := sorted(set(names.values()) - set(place.names)):
        raise ValueError(f"{index} names {absent[0]!r}, which is not beside it; download it again.")
    weights = read_weights([place.fetch(shard) for shard in sorted(set(names.values()))])
    check_shards(index, names, weights.tensors)
    return weights


def _describe(place: Place, name: str, tensors: dict[str, Tensor]) -> Described:
    """By the layout whose names the tensors have."""
    if big_vision.recognises(tensors):
        return big_vision.describe(tensors)
    for layout in (hugging_face, open_clip):
        if layout.recognises(tensors):
            config = layout.CONFIG
            beside = read_json(place.fetch(config)) if config in place.names else None
            return layout.describe(tensors, beside)
    some = ", ".join(sorted(tensors)[:3]) or "nothing"
    raise ValueError(
        f"{name} in {place.label} holds {some} ...; expected the names of a SigLIP or CLIP in the layout of "
        "big_vision, Hugging Face or open_clip."
    )


def _configs(
    described: Described,
    overrides: dict[str, dict[str, Any]],
    only: str | None,
    name: str,
    rest: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `make_model` for the file as it is, and for what the user asked for."""
    stored: dict[str, Any] = {}
    wanted: dict[str, Any] = {}
    for what, tower in _TOWERS.items():
        raw = getattr(described, what)
        if raw is None and only == tower:
            raise ValueError(f"{name} has no {what} tower, which the suffix :{only} asks for.")
        if raw is None or only not in (None, tower):
            if overrides[what]:
                raise ValueError(f"got arguments of the {what} tower, which is not loaded.")
            stored[what] = wanted[what] = None
            continue
        resized = "size" if what == "image" else "length"
        fixed = {key: value for key, value in overrides[what].items() if key != resized}
        raw = (_DEFAULTS if what == "text" and described.family == "siglip" else {}) | raw | fixed
        _check_known(what, raw, described, name)
        if raw["depth"] > len(described.tensors):  # or the table alone would take memory
            raise ValueError(
                f"{described.source} claims {raw['depth']} layers; {name} has fewer tensors."
            )
        stored[what] = tower_arguments(raw)
        wanted[what] = stored[what] | {
            key: value for key, value in overrides[what].items() if key == resized
        }
    bias = {} if described.bias else {"bias_init": None}
    return {**stored, **bias, **rest}, {**wanted, **bias, **rest}


def _check_known(what: str, raw: Mapping[str, Any], described: Described, name: str) -> None:
    if missing := [key for key in _NEEDED[what] if key not in raw]:
        given = ", ".join(f"{key}=..." for key in missing)
        raise ValueError(
            f"{name} does not say {', '.join(missing)} of the {what} tower: put its {described.source} "
            f"beside it, or give {what}=dict({given})."
        )


def _leaves(
    described: Described,
    stored: dict[str, Any],
    wanted: dict[str, Any],
    only: str | None,
    weights: Weights,
) -> dict[str, leaves.Leaf]:
    """Every parameter of the model by path, all shapes checked."""
    shapes = _flat(jax.eval_shape(make_model(**stored).init, jax.random.key(0)))
    entries = {entry.ours: entry for entry in described.entries}
    found = {}
    for path, leaf in shapes.items():
        if path not in entries:
            raise ValueError(f"The {described.layout} layout has no place for our {path}.")
        found[path] = leaves.make_leaf(
            entries[path], leaf.shape, described.tensors, weights.release
        )
    _check_all_used(described, shapes, only)
    for what, tower in _TOWERS.items():
        path = f"{tower}/pos_embedding"
        if path in found:
            found[path] = _resampled(found[path], what, described, stored[what], wanted[what])
    return found


def _check_all_used(described: Described, shapes: Mapping[str, Any], only: str | None) -> None:
    used: set[str] = set()
    for entry in described.entries:
        other = only is not None and not entry.ours.startswith(f"{only}/")
        if entry.ours in shapes:
            used |= {*_names(entry, shapes[entry.ours].shape), entry.plus or entry.theirs}
        elif other:  # of the tower that is left alone
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
    leaf: leaves.Leaf,
    what: str,
    described: Described,
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
) -> leaves.Leaf:
    key = "size" if what == "image" else "length"
    rule = described.resampling[0 if what == "image" else 1]
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
        length = (length // patch) ** 2 + class_token
    return leaves.resampled(leaf, what=what, class_token=class_token, length=length, rule=rule)


def _place(
    model: Model, found: Mapping[str, leaves.Leaf], shardings: Callable[[Any], Any] | None
) -> dict[str, Any]:
    """Arrays in the form of the model's tree."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    where = {} if shardings is None else _flat(shardings(shapes))
    arrays = {path: leaves.place(leaf, where.get(path)) for path, leaf in found.items()}
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], shapes)


def _flat(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
