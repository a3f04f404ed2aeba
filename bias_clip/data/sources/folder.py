"""A folder of images, with captions in files beside them, in a metadata file, or from class folders."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.data.records import Source
from bias_clip.data.sources.table import table_source
from bias_clip.data.sources.tabular.contained import Roots, make_roots, read_contained
from bias_clip.data.sources.tabular.json_rows import JsonRows
from bias_clip.data.sources.tabular.places import OWN
from bias_clip.data.sources.tabular.rows import RowRecords, make_layout

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
CAPTION_ENDINGS = (".txt", ".caption")
METADATA = ("metadata.csv", "metadata.jsonl")
_SPLITS = ("train", "val", "validation", "test")
_SIDE = ".json"  # what img2dataset writes beside an image


def folder_source(
    *,
    path: str,
    split: str | None = None,
    captions: Sequence[str] | None = None,
    lines: bool = False,
    roots: Sequence[str] = (),
) -> Source:
    """Reads all images within a folder, in the order of their paths; hidden files are left out.

    Captions come from the first of these that exists:

        metadata.csv, metadata.jsonl   rows with file_name, as in Hugging Face's image folders; then
                                       images without a row are left out
        a.txt or a.caption by a.jpg    the whole text; attributes come from a.json, if it exists
        class folders                  the name of the folder is the caption, and the attribute "label"

    Args:
      path: the folder.
      split: the folder "train", "val", "validation" or "test" to read, if there are several.
      captions: columns or templates, such as ("a photo of a {label}",).
      lines: each line of a caption file is a caption.
      roots: further folders that images may be in, if links lead out of `path`.

    Raises: ValueError for a folder without images, for one with several splits if none is named, or
      for a row of the metadata whose image does not exist.

        folder_source(path="frogs")
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {path!r}.")
    folder = _take_split(folder, split)
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if found:
        return _with_metadata(found[0], captions, roots)
    rows = FolderRows(folder, make_roots(folder, roots), lines=lines)
    default = ("captions",) if rows.captions else ("label",)
    layout = make_layout(
        rows.names,
        table=str(folder),
        roots=make_roots(folder, roots),
        image="file",
        captions=captions or default,
        identity="{file}",
    )
    kept = dict.fromkeys(
        ("label", *(n for n in layout.attributes if n not in ("captions", "caption")))
    )
    return RowRecords(rows, layout._replace(attributes=tuple(kept)))


class FolderRows:
    """A row per image file: `file`, `label` (its folder), `captions`, and the fields of its .json file."""

    def __init__(self, folder: Path, roots: Roots, *, lines: bool):
        """Lists the folder, and reads the .json files; captions are read with their record."""
        files = set(_walk(folder))
        images = sorted(name for name in files if name.lower().endswith(IMAGE_ENDINGS))
        if not images:
            raise ValueError(f"{folder} has no images; expected files of {list(IMAGE_ENDINGS)}.")
        self._roots, self._lines = roots, lines
        self._texts = [_beside(image, files, CAPTION_ENDINGS) for image in images]
        rows = [_row(folder, image, _beside(image, files, (_SIDE,)), roots) for image in images]
        self._rows = JsonRows([(folder.name, rows)])
        self.names = [*(n for n in self._rows.names if n != "captions"), "captions"]
        # If only some images lack a caption, the log says how many; if all do, class names serve as
        # captions.
        lonely = sum(
            text is None and not row.get("caption")
            for text, row in zip(self._texts, rows, strict=True)
        )
        self.captions = lonely < len(images)
        if lonely and self.captions:
            logging.getLogger(__name__).warning(
                "%s: %d of %d images have no caption", folder, lonely, len(images)
            )

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int, names: Sequence[str]) -> dict[str, Any]:
        """Returns some columns of a row."""
        found = self._rows.row(index, names)
        if "captions" in found:
            found["captions"] = self._captions(index)
        return found

    def attributes(self, index: int, names: Sequence[str]) -> dict[str, Any]:
        """Returns some columns of a row."""
        return self._rows.attributes(index, names)

    def values(self, name: str) -> list[Any]:
        """Returns one column of all rows."""
        return self._rows.values(name)

    def column(self, name: str) -> np.ndarray:
        """Returns one column of all rows as an array."""
        return self._rows.column(name)

    def _captions(self, index: int) -> Any:
        file = self._texts[index]
        if file is None:
            return self._rows.row(index, ("caption",))["caption"]
        text = read_text(file, self._roots)
        # Empty lines are empty captions, which readers leave out.
        return text.split("\n") if self._lines else text


def read_text(name: str, roots: Roots) -> str:
    """Reads a file of UTF-8 text within a folder, see `read_contained`."""
    try:
        return read_contained(name, roots).decode("utf-8-sig")
    except UnicodeError as error:
        raise ValueError(f"{name!r} is not UTF-8: {error}; write it again.") from error


def _with_metadata(path: Path, captions: Sequence[str] | None, roots: Sequence[str]) -> Source:
    source = table_source(path=str(path), captions=captions, roots=roots)
    # Like Hugging Face's reader: a missing image means that the folder was not copied completely.
    lost = [name for name in source.image_names() if not (path.parent / name).exists()]
    if lost:
        raise ValueError(f"{path} names {len(lost)} images that do not exist, such as {lost[0]!r}.")
    return source


def _take_split(folder: Path, split: str | None) -> Path:
    there = [name for name in _SPLITS if (folder / name).is_dir()]
    if split is None:
        if len(there) > 1:
            raise ValueError(f"{folder} has the splits {there}; name the one to read by `split`.")
        only = there and all(p.name in there for p in folder.iterdir() if p.is_dir())
        return folder / there[0] if only and (folder / there[0] / METADATA[0]).is_file() else folder
    if split not in there:
        raise ValueError(f"{folder} has no split {split!r}, it has {there}.")
    return folder / split


def _walk(folder: Path) -> Iterator[str]:
    """Paths of files within the folder, sorted; folders and files that start with a dot are left out."""
    found = list[str]()
    for inner, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        base = Path(inner).relative_to(folder)
        found += [(base / name).as_posix() for name in files if not name.startswith(".")]
    yield from sorted(found)


def _beside(image: str, files: set[str], endings: Sequence[str]) -> str | None:
    stem = os.path.splitext(image)[0]
    # Looks in the set of paths: a folder of a million images is listed once and not asked per image.
    return next((stem + ending for ending in endings if stem + ending in files), None)


def _row(folder: Path, image: str, side: str | None, roots: Roots) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if side is not None:
        try:
            found = json.loads(read_text(side, roots))
        except (ValueError, RecursionError) as error:
            logging.getLogger(__name__).warning("%s is left out: %s", folder / side, error)
            found = None
        row = {k: v for k, v in found.items() if k not in OWN} if isinstance(found, Mapping) else {}
    label = os.path.dirname(image).rpartition("/")[2] or folder.name
    return {**row, "file": image, "label": label}
