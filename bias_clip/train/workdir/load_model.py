"""A run or a published checkpoint, whatever a path holds, as one form that every tool takes.

The checkpoint decides how images and texts are prepared. Whoever changes that can lose many points
without an error, so each change is a note, which the tools print.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from bias_clip.core.registry import refuse_unknown
from bias_clip.core.storage import is_run, run_folder
from bias_clip.data.text import make_text_fn
from bias_clip.pretrained import Loaded, load_pretrained
from bias_clip.pretrained.place import INDEX, WEIGHTS, split_tower
from bias_clip.train.config_io import to_plain
from bias_clip.train.options.schema import default_config
from bias_clip.train.sharding import make_mesh, tree_shardings
from bias_clip.train.workdir.load_run import Trained, load_run

TOWERS = ("image", "text")
CHANGES = ("tokenizer", "images", "texts.<argument of make_text_fn>")
_WORTH_SAYING = "defaults of|does not say|in place of|as given|full square grid"  # of `stated`
_OF_CHECKPOINTS = ("image.<argument of ViT>", "text.<argument of TextTransformer>")


def load_model(
    path: str | Path, step: int | None = None, *, changes: Mapping[str, Any] | None = None
) -> Trained:
    """Loads a run, or a published checkpoint of any layout that `load_pretrained` reads.

    Args:
      path: the workdir of a run, or of a checkpoint: a file, a folder, "gs://bucket/folder" or
        "hf://owner/name".
      step: of a run's checkpoint; None: the newest.
      changes: "images": operations in place of the model's own; "tokenizer": a vocabulary in place of its
        own; "texts.form" and so on: arguments of `make_text_fn`. For a published checkpoint also
        "image.num_heads", "text.length" and so on: arguments of its towers, which its files may not state.

    Returns:
      `Trained`; its `notes` name each change of the preprocessing and the texts.

    Raises:
      ValueError: as `load_run` or `load_pretrained`; a step of something that has none; an unknown change.
    """
    changes = dict(changes or {})
    if is_run(path):
        return _changed(load_run(path, step), changes)
    if step is not None:
        raise ValueError(f"got step {step}, but {path} is not a run; only runs have steps.")
    given: dict[str, dict[str, Any]] = {tower: {} for tower in TOWERS}
    for key in [key for key in changes if key.partition(".")[0] in TOWERS and "." in key]:
        tower, _, name = key.partition(".")
        given[tower][name] = changes.pop(key)
    _check_there(str(path))
    config, mesh = default_config(), make_mesh()
    loaded = load_pretrained(
        path,
        image=given["image"],
        text=given["text"],
        tokenizer=changes.pop("tokenizer", None),
        shardings=lambda tree: tree_shardings(tree, config.sharding, mesh),
    )
    adopt(config, loaded)
    config.evals = {}
    origin = {**loaded.origin, "layout": loaded.layout, "family": loaded.family}
    said = [f"given: {tower}.{key}={x!r}" for tower in TOWERS for key, x in given[tower].items()]
    notes = (*loaded.notes, *_assumed(loaded), *said)
    found = Trained(Path(path), 0, config, loaded.model, loaded.params, mesh, origin, notes)
    return _changed(found, changes)


def load_models(
    paths: Sequence[str | Path],
    steps: Sequence[int] = (),
    *,
    changes: Mapping[str, Any] | None = None,
) -> list[Trained]:
    """Loads several; `steps` is empty for the newest ones, or has one of each.

    Raises:
      ValueError: if there is no path, or are more or fewer steps than paths; as `load_model`.
    """
    if not paths:
        raise ValueError("got no workdir; give one, or several that are one model.")
    if steps and len(steps) != len(paths):
        raise ValueError(
            f"got {len(steps)} steps for {len(paths)} workdirs; give one for each, or none."
        )
    newest: list[int | None] = [None] * len(paths)
    pairs = zip(paths, steps or newest, strict=True)
    return [load_model(path, step, changes=changes) for path, step in pairs]


def adopt(config: ml_collections.ConfigDict, loaded: Loaded) -> None:
    """Writes a checkpoint's model, preprocessing and tokenizer into a config.

    `data.text` becomes None without a tokenizer, and the operations on images stay without an image tower.
    """
    config.model = {**config.model.to_dict(), **loaded.config}
    if loaded.preprocess is not None:
        config.data.image = config.evaluation.image = loaded.preprocess.ops
    with config.unlocked():
        config.data.text = None if loaded.tokenizer is None else dict(loaded.tokenizer.rules)


def _assumed(loaded: Loaded) -> tuple[str, ...]:
    """What no file states, or what differs from the published model, in the words of the readers."""
    parts = [part for part in (loaded.preprocess, loaded.tokenizer) if part is not None]
    said = [said for part in parts for said in part.stated]
    return tuple(f"preparation: {text}" for text in said if re.search(_WORTH_SAYING, text))


def _changed(trained: Trained, changes: Mapping[str, Any]) -> Trained:
    if not changes:
        return trained
    config = ml_collections.ConfigDict(to_plain(trained.config))
    valid = CHANGES if trained.origin is None else (*CHANGES, *_OF_CHECKPOINTS)
    notes = []
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if key == "images":
            old, config.evaluation.image = config.evaluation.image, value
        elif config.data.text is not None and (key == "tokenizer" or section == "texts"):
            name = name or key
            refuse_unknown("change", [name], make_text_fn.__annotations__)
            old = config.data.text.get(name)
            config.data.text = {**config.data.text.to_dict(), name: value}
        else:
            raise ValueError(f"got {key}={value!r}; expected one of {', '.join(valid)}.")
        notes.append(f"override: {key} is {value!r}, in place of {old!r}")
    return trained._replace(config=config, notes=(*trained.notes, *notes), changed=True)


def _check_there(path: str) -> None:
    """Refuses in one line what holds neither; the readers would speak of weights alone."""
    if path.startswith("hf:/"):
        return
    folder = run_folder(split_tower(path)[0])
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else [folder.name]
    if not folder.exists() or not any(name.endswith((*WEIGHTS, INDEX)) for name in names):
        raise ValueError(
            f"{path} holds no run and no published checkpoint: expected a workdir with config.json and "
            f"checkpoints/, or weights that end in one of {', '.join(WEIGHTS)}."
        )
