"""A model as a folder that others load: weights, configuration, preprocessing, tokenizer, model card."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bias_clip.core.registry import look_up
from bias_clip.core.write import write_file
from bias_clip.pretrained.export import complete, export_big_vision, export_hugging_face
from bias_clip.pretrained.exports.export_card import Facts, model_card
from bias_clip.pretrained.exports.export_images import (
    Written,
    big_vision_images,
    hugging_face_images,
    open_clip_images,
)
from bias_clip.pretrained.exports.export_open_clip import export_open_clip
from bias_clip.pretrained.exports.export_tokens import (
    big_vision_tokens,
    hugging_face_tokens,
    open_clip_tokens,
)

PARTS = ("preprocessing", "tokenizer")  # what may be left out


class Exported(NamedTuple):
    """A model to export.

    Attributes:
      params: in our tree.
      config: the keyword arguments of `make_model`.
      images: op-string of its preprocessing; None where it is not known.
      texts: arguments of `make_text_fn`; None where they are not known.
      facts: for the model card.
    """

    params: Mapping[str, Any]
    config: Mapping[str, Any]
    images: str | None
    texts: Mapping[str, Any] | None
    facts: Facts


def export_folder(
    model: Exported, out: Path, *, layout: str, leave_out: Collection[str] = ()
) -> tuple[str, ...]:
    """Writes the folder; all refusals come before the first file.

    Args:
      model: what is written.
      out: a folder that is empty or not there.
      layout: "hugging_face", "open_clip" or "big_vision".
      leave_out: of `PARTS`, what the user of the folder sets up by hand; the card says so.

    Returns:
      notes: what a user of the export should know; they are in the card, too.

    Raises:
      ValueError: `out` is not empty; the layout cannot say something of the model, its preprocessing or
        its tokenizer, which the message names.

    Example:
      export_folder(model, Path("out"), layout="hugging_face")
      # then: transformers.AutoModel.from_pretrained("out")
    """
    write = look_up("layout", layout, _LAYOUTS)
    # Never into a folder with files: an old tokenizer beside new weights would be read without an error.
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already and not empty; give another folder.")
    image, _ = complete(model.config)
    parts = {
        "preprocessing": _images(model, layout, image["size"]),
        "tokenizer": _texts(model, layout, clip=bool(image["class_token"])),
    }
    written = {name: _part(name, make, leave_out) for name, make in parts.items()}
    # All parts are made in memory before the first file is written, so that a refusal leaves nothing
    # behind.
    files = {name: data for part in written.values() for name, data in part.files.items()}
    notes = write(model, out, files)
    notes += tuple(note for part in written.values() for note in part.notes)
    for name, data in files.items():
        write_file(out / name, data if isinstance(data, bytes) else _json(data))
    card = model_card(model.facts, layout, notes, images=model.images, texts=model.texts)
    write_file(out / "README.md", card)
    return notes


def _part(name: str, make: Any, leave_out: Collection[str]) -> Written:
    if name in leave_out:
        return Written({}, (f"The {name} was left out of this folder; set it up by hand.",))
    if make is None:
        return Written({}, (f"The {name} is not known, so there are no files of it.",))
    found: Written = make()
    return found


def _images(model: Exported, layout: str, size: int) -> Any:
    make = _IMAGES[layout]
    return None if model.images is None else lambda: make(model.images, size=size)


def _texts(model: Exported, layout: str, *, clip: bool) -> Any:
    rules = model.texts
    if rules is None:
        return None
    if layout == "big_vision":
        return lambda: big_vision_tokens(rules)
    make = hugging_face_tokens if layout == "hugging_face" else open_clip_tokens
    return lambda: make(rules, clip=clip)


def _big_vision(model: Exported, out: Path, files: dict[str, Any]) -> tuple[str, ...]:
    out.mkdir(parents=True, exist_ok=True)
    export_big_vision(model.params, model.config, out / "model.npz")
    return ()


def _hugging_face(model: Exported, out: Path, files: dict[str, Any]) -> tuple[str, ...]:
    export_hugging_face(model.params, model.config, out)
    return ()


def _open_clip(model: Exported, out: Path, files: dict[str, Any]) -> tuple[str, ...]:
    # Both are parts of its one config.
    said = {name: files.pop(name, None) for name in ("preprocess_cfg", "text_cfg")}
    preprocess, tokens = said.values()
    return export_open_clip(model.params, model.config, out, preprocess=preprocess, tokens=tokens)


_LAYOUTS = {"hugging_face": _hugging_face, "open_clip": _open_clip, "big_vision": _big_vision}
_IMAGES = {
    "hugging_face": hugging_face_images,
    "open_clip": open_clip_images,
    "big_vision": big_vision_images,
}
LAYOUTS = tuple(_LAYOUTS)


def _json(table: Mapping[str, Any]) -> str:
    return json.dumps(table, indent=2, sort_keys=True) + "\n"
