"""The published files of caption data sets: COCO, Karpathy's splits, Flickr30k. One row per image."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bias_clip.data.sources.tabular.delimited import open_binary

Rows = list[dict[str, Any]]

_TOKEN = re.compile(r"(.+)#(\d+)\t(.*)", re.DOTALL)
# Flickr30k's results.csv: bars with blanks, no quotes; one published line lacks its second bar.
_FLICKR_HEADER = re.compile(r"\s*image_name\s*\|\s*comment_number\s*\|\s*comment\s*$")
_FLICKR = re.compile(r"\s*([^|]+?)\s*\|\s*(\d+)\s*(?:\|\s*)?(.*)", re.DOTALL)


def caption_rows(document: Any, path: Path) -> Rows | None:
    """The rows of a JSON document in COCO's or Karpathy's layout; None for one of another layout.

    Images come in the order of the file, captions in the order of the annotations.

    Annotations of images that are not listed are left out, and counted in the log.

    Raises: ValueError if an id occurs twice.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("images"), list):
        return None
    images = document["images"]
    if not images or not all(isinstance(image, Mapping) for image in images):
        return None
    if isinstance(document.get("annotations"), list):
        return _coco(images, document["annotations"], path)
    if all("sentences" in image and "filename" in image for image in images):
        return [_karpathy(image) for image in images]
    return None


def flickr_rows(path: Path) -> Rows | None:
    """The rows of Flickr30k's `results.csv` or of a `.token` file; None for another file.

    Raises: ValueError for a line that has neither form, with its number.
    """
    with open_binary(path) as file:
        first = file.readline().decode("utf-8-sig", "replace")
        bars = _FLICKR_HEADER.match(first)
        if not bars and not (path.suffix == ".token" and _TOKEN.match(first)):
            return None
        # A .token file has no header: its first line is already a caption.
        lines = file.read() if bars else first.encode() + file.read()
    pattern = _FLICKR if bars else _TOKEN
    text = lines.decode("utf-8-sig")
    return _grouped(pattern, (line.rstrip("\r") for line in text.split("\n")), path, 1 + bool(bars))


def take_splits(rows: Rows, split: str | Sequence[str] | None, path: Path) -> Rows:
    """The rows of one or more splits.

    Raises: ValueError if rows belong to several splits and none is named, or for an unknown split.
    """
    there = sorted({str(row["split"]) for row in rows if "split" in row})
    wanted = [split] if isinstance(split, str) else list(split or ())
    unknown = sorted(set(wanted) - set(there))
    if wanted and not there:
        raise ValueError(f"{path} has no splits, got split={wanted}; give split=None for all rows.")
    if unknown or (len(there) > 1 and not wanted):
        raise ValueError(
            f"{path} has the splits {there}; name those to read by `split`, as split=['train', "
            f"'restval']{f', got {wanted}' if wanted else ''}."
        )
    return [row for row in rows if not wanted or row["split"] in wanted]


def find_images(rows: Rows, folder: Path) -> tuple[Path, str]:
    """Finds the images of such a file: their root, and the template of their paths.

    The published archives unpack the images into a folder beside the file or beside its folder.

    Raises: ValueError if the first image is not found.
    """
    name = "file_name" if "file_name" in rows[0] else "filename"
    template = "{filepath}/{filename}" if rows[0].get("filepath") else f"{{{name}}}"
    first = template.format(**rows[0])
    # The published archive has annotations/ beside val2017/: the images are one folder up.
    for root in (folder, folder.parent):
        inner = sorted(path for path in root.iterdir() if path.is_dir())
        for base in (root, *inner):
            if (base / first).is_file():
                return base, template
    raise ValueError(
        f"the image {first!r} is neither in {folder} nor beside it, nor in a folder there; give the "
        f"folder of the images as `root`, or the whole path as image='val2017/{template}'."
    )


def _coco(images: Iterable[Mapping[str, Any]], annotations: Any, path: Path) -> Rows:
    # By id, in the order of the file: annotations come in any order, and several per image.
    rows = {image["id"]: {**image, "captions": []} for image in images}
    if len(rows) < len(list(images)):
        raise ValueError(f"{path}: ids of images come twice; every image needs its own.")
    lost = [a.get("image_id") for a in annotations if a.get("image_id") not in rows]
    if lost:
        logging.getLogger(__name__).warning(
            "%s: left out %d of %d annotations, of images that are not listed, such as %r",
            path,
            len(lost),
            len(annotations),
            lost[0],
        )
    for annotation in annotations:
        row = rows.get(annotation.get("image_id"))
        if row is not None and annotation.get("caption") is not None:
            row["captions"].append(annotation["caption"])
    return list(rows.values())


def _karpathy(image: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in image.items() if k not in ("sentences", "sentids")}
    return {**kept, "captions": [sentence["raw"] for sentence in image["sentences"]]}


def _grouped(pattern: re.Pattern[str], lines: Iterable[str], path: Path, start: int) -> Rows:
    captions = dict[str, list[tuple[int, str]]]()
    for number, line in enumerate(lines, start):
        found = pattern.fullmatch(line)
        if found:
            captions.setdefault(found[1], []).append((int(found[2]), found[3]))
        elif line.strip():
            raise ValueError(
                f"{path}, line {number}: got {line[:80]!r}; expected image, number, text."
            )
    return [
        {"file_name": name, "captions": [text for _, text in sorted(own, key=lambda c: c[0])]}
        for name, own in captions.items()
    ]
