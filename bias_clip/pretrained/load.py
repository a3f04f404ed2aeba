"""Loads published weights as a model of this library."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bias_clip.data.tables import file_sha256
from bias_clip.data.text import vocabulary_names
from bias_clip.models.two_towers import Model, make_model
from bias_clip.pretrained.assemble import TOWERS, make_leaves, place_leaves
from bias_clip.pretrained.files.read import Weights, check_shards, read_weights, shard_names
from bias_clip.pretrained.files.tensors import Tensor
from bias_clip.pretrained.layouts import big_vision, hugging_face, open_clip
from bias_clip.pretrained.layouts.describe import Described, read_json, tower_arguments
from bias_clip.pretrained.leaves import Leaf
from bias_clip.pretrained.place import INDEX, Place, find_weights, open_place, split_tower
from bias_clip.pretrained.preprocess import PREPROCESS_FILES, Preprocess, read_preprocess
from bias_clip.pretrained.tokenizer import TOKENIZER_FILES, Tokenizer, read_tokenizer

CLIP_IDS = 49_408  # size of CLIP's vocabulary
_NEEDED = {
    "image": ("num_heads", "activation", "pool"),
    "text": ("num_heads", "activation", "mask", "pool"),
}
_DEFAULTS = {"mask": "none"}  # not stated by layouts whose models all have this value


class Loaded(NamedTuple):
    """A published checkpoint.

    Attributes:
      model: from `make_model`.
      params: in our tree, float32.
      config: the keyword arguments of `make_model`.
      layout: "big_vision", "hugging_face" or "open_clip".
      family: "siglip" or "clip".
      origin: the given path, the files, and their version, such as a commit.
      notes: what a user should know about this checkpoint.
      preprocess: for its images; None without an image tower.
      tokenizer: for its texts; None without a text tower, or without a vocabulary (a note then says so).
    """

    model: Model
    params: dict[str, Any]
    config: dict[str, Any]
    layout: str
    family: str
    origin: dict[str, Any]
    notes: tuple[str, ...]
    preprocess: Preprocess | None
    tokenizer: Tokenizer | None


def load_pretrained(
    path: str | Path,
    *,
    image: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    shardings: Callable[[Any], Any] | None = None,
    fingerprint: bool = False,
    dtype: str = "float32",
    remat: str = "none",
    scan: bool = True,
    attention: str = "xla",
) -> Loaded:
    """Loads a SigLIP or CLIP that was published in the layout of big_vision, Hugging Face or open_clip.

    Layout and format are recognised by the files' contents. All shapes are checked before any values are
    read. Then parameters are made one by one, and each device reads only its part.

    Args:
      path: of a file or a folder: on a disk, "gs://bucket/folder", "hf://owner/name" or
        "hf://owner/name@revision". A suffix ":img" or ":txt" loads that tower alone.
      image, text: arguments of `ViT` and `TextTransformer` that the files do not state, such as
        `num_heads`, `activation`, `mask` and `pool`, or that are to differ. If `size` or `length` differs
        from the checkpoint's, positions are resampled as by the layout's library (`positions`).
      tokenizer: a vocabulary to use instead of the one beside the weights, see `read_tokenizer`.
      shardings: maps a tree of shapes to a tree of shardings, such as
        `lambda tree: tree_shardings(tree, config.sharding, mesh)`. None: the default device.
      fingerprint: also reads the files of weights as bytes, for their SHA-256 in `origin["sha256"]`.
      dtype, remat, scan, attention: of `make_model`.

    Raises:
      ValueError: nothing is found; a file is damaged, hostile, or of no known layout; a tensor is missing,
        superfluous, or of another shape; an activation is unknown; or the files do not state a needed
        argument, which the message names.

    Example:
      loaded = load_pretrained("hf://google/siglip2-base-patch16-224")
      zimg = loaded.model.apply(loaded.params, image=pixels).zimg
    """
    rest = {"dtype": dtype, "remat": remat, "scan": scan, "attention": attention}
    with ExitStack() as stack:
        # Everything is checked on shapes before the first value is read.
        loaded, found, files = _open(str(path), stack, image, text, tokenizer, rest)
        if fingerprint:
            digests = {file.name: file_sha256(file) for file in files}
            loaded = loaded._replace(origin={**loaded.origin, "sha256": digests})
        return loaded._replace(params=place_leaves(loaded.model, found, shardings))


def inspect_pretrained(
    path: str | Path,
    *,
    image: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
) -> Loaded:
    """Says what `load_pretrained` would load, with shapes in place of parameters; reads no values.

    Args and Raises: as `load_pretrained`.
    """
    with ExitStack() as stack:
        return _open(str(path), stack, image, text, tokenizer, {})[0]


def _open(
    path: str,
    stack: ExitStack,
    image: Mapping[str, Any] | None,
    text: Mapping[str, Any] | None,
    tokenizer: str | None,
    rest: dict[str, Any],
) -> tuple[Loaded, dict[str, Leaf], list[Path]]:
    """The checkpoint with shapes in place of parameters, its leaves, and the files of weights."""
    # The suffix first: "folder:img" is not a folder.
    where, only = split_tower(path)
    overrides = {"image": dict(image or {}), "text": dict(text or {})}
    place = open_place(where, stack)
    name, weights = _choose(place)
    described = _describe(place, name, weights.tensors)
    stored, wanted = _configs(described, overrides, only, name, rest)
    found = make_leaves(described, stored, wanted, only, weights)
    model = make_model(**wanted)
    # Only what is read is fetched: a repository may hold gigabytes of other files.
    names = {*PREPROCESS_FILES, *TOKENIZER_FILES} & set(place.names)
    files = {name: place.fetch(name) for name in sorted(names)}
    words, missing = _tokenizer(described, files, wanted, tokenizer)
    if words is not None:
        # Copies of a bucket's files are deleted with the stack: a config needs the address instead.
        rules = {**words.rules, "tokenizer": place.address(words.rules["tokenizer"])}
        words = words._replace(rules=rules)
    # The layout's note is about the activation: it is settled when the user gives one.
    notes = described.notes if "activation" not in {*overrides["image"], *overrides["text"]} else ()
    loaded = Loaded(
        model=model,
        params=jax.eval_shape(model.init, jax.random.key(0)),
        config=wanted,
        layout=described.layout,
        family=described.family,
        origin={"path": path, "files": [name, described.source], **place.facts},
        notes=(*notes, *missing),
        preprocess=_preprocess(described, files, wanted),
        tokenizer=words,
    )
    return loaded, found, _files(place, name)


def _preprocess(
    described: Described, files: Mapping[str, Path], config: Mapping[str, Any]
) -> Preprocess | None:
    if config["image"] is None:
        return None
    size = config["image"]["size"]
    return read_preprocess(files, described.layout, family=described.family, size=size)


def _tokenizer(
    described: Described,
    files: Mapping[str, Path],
    config: Mapping[str, Any],
    given: str | None,
) -> tuple[Tokenizer | None, tuple[str, ...]]:
    """The tokenizer; or a note that there is no vocabulary, as with a single file of weights."""
    if config["text"] is None:
        return None, ()
    sizes = {name: config["text"][name] for name in ("length", "vocab_size")}
    beside = any(name in files for names in vocabulary_names() for name in names)
    # CLIP's vocabulary is built in; a model with fewer rows, as in tests, was trained with another.
    built_in = described.family == "clip" and sizes["vocab_size"] >= CLIP_IDS
    if given is None and not beside and not built_in:
        return None, ("There is no vocabulary beside the weights: give tokenizer='path'.",)
    found = read_tokenizer(
        files, described.layout, family=described.family, tokenizer=given, **sizes
    )
    return found, ()


def _choose(place: Place) -> tuple[str, Weights]:
    """The file of weights; if there are several, the one with the names of a known layout."""
    names = find_weights(place)
    found = [(name, _read(place, name)) for name in names]
    # Folders may hold other weights too, such as an optimizer's; the names inside decide.
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


def _files(place: Place, name: str) -> list[Path]:
    """The files of weights behind a name: itself, or the shards of an index."""
    if not name.endswith(INDEX):
        return [place.fetch(name)]
    shards = shard_names(place.fetch(name)).values()
    return [place.fetch(shard) for shard in sorted(set(shards))]


def _read(place: Place, name: str) -> Weights:
    if not name.endswith(INDEX):
        return read_weights([place.fetch(name)])
    index = place.fetch(name)
    names = shard_names(index)
    if absent := sorted(set(names.values()) - set(place.names)):
        raise ValueError(f"{index} names {absent[0]!r}, which is not beside it; download it again.")
    weights = read_weights(_files(place, name))
    check_shards(index, names, weights.tensors)
    return weights


def _describe(place: Place, name: str, tensors: dict[str, Tensor]) -> Described:
    """Describes the model by the layout whose names the tensors have."""
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
    """Arguments of `make_model` for the file itself, and for the model that the user asked for."""
    stored: dict[str, Any] = {}
    wanted: dict[str, Any] = {}
    for what, tower in TOWERS.items():
        raw = getattr(described, what)
        if raw is None and only == tower:
            raise ValueError(f"{name} has no {what} tower, which the suffix :{only} asks for.")
        if raw is None or only not in (None, tower):
            if overrides[what]:
                raise ValueError(f"got arguments of the {what} tower, which is not loaded.")
            stored[what] = wanted[what] = None
            continue
        resized = "size" if what == "image" else "length"
        # The size is not fixed here: the file keeps its own, and the positions are resampled to the wanted
        # one.
        fixed = {key: value for key, value in overrides[what].items() if key != resized}
        raw = (_DEFAULTS if what == "text" and described.family == "siglip" else {}) | raw | fixed
        _check_known(what, raw, described, name)
        if raw["depth"] > len(described.tensors):  # or its table could fill memory
            raise ValueError(
                f"{described.source} claims {raw['depth']} layers; {name} has fewer tensors."
            )
        stored[what] = tower_arguments(raw)
        wanted[what] = stored[what] | {
            key: value for key, value in overrides[what].items() if key == resized
        }
    # A file without a bias is of a model without one; the default bias of -10 would shift its logits.
    bias = {} if described.bias else {"bias_init": None}
    return {**stored, **bias, **rest}, {**wanted, **bias, **rest}


def _check_known(what: str, raw: Mapping[str, Any], described: Described, name: str) -> None:
    if missing := [key for key in _NEEDED[what] if key not in raw]:
        given = ", ".join(f"{key}=..." for key in missing)
        raise ValueError(
            f"{name} does not state {', '.join(missing)} of the {what} tower: put its {described.source} "
            f"beside it, or give {what}=dict({given})."
        )
