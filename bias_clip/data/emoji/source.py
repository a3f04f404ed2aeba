"""The embedded data set: about 3,900 emoji in six styles, with columns for gender, tone and role.

Splits follow fixed rules and do not depend on the requested variant, styles or languages:

* "concepts": a share of the concepts in every style, with all their genders and tones. Concepts that
  share an image in some style (the flags of Norway and Svalbard) stay together, as one family.
* "style": the twemoji images of the other concepts. Its designers share nothing with those of the
  five training styles. The three Fluent styles share shapes, so none of them can be held out alone.
* "images": a share of the (style, family) pairs of the training styles. Every emoji of such a pair
  stays in training in another style: known names, known styles, unseen images.
* "train": the rest. "all": everything.

A test image that looks the same as a training image is in no split except "all".

Gender is what the emoji presents by its code points. Tone is the Fitzpatrick modifier (0: the default
yellow, 6: several). Neither says anything about a real person.
"""

import functools
import lzma
import pathlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bias_clip.data.emoji import captions, splits

PACK = pathlib.Path(__file__).parent / "pack"
SIZE = 64  # pixels per side
LANGUAGES = ("en", "de", "es", "fr", "it", "nl", "pt")
UNITS = ("image", "entry")
IMAGE_FILES = {  # by style; the order of images.tsv.xz
    "noto": "noto.rgba.xz",
    "noto-v1": "noto-v1.rgba.xz",
    "fluent-flat": "fluent-flat.rgba.xz",
    "fluent-hc": "fluent-hc.alpha.xz",
    "fluent-3d": "fluent-3d.webp.bin",
    "twemoji": "twemoji.rgba.xz",
}
STYLES = tuple(IMAGE_FILES)
GROUPS = (
    *("smileys-emotion", "people-body", "animals-nature", "food-drink", "travel-places"),
    *("activities", "objects", "symbols", "flags"),
)
ATTRIBUTES = ("name", "concept", "gender", "tone", "group", "subgroup", "role")
NUMBERS = ("tone", "role")

Table = list[dict[str, str]]
Place = tuple[str, int]  # a style, and the number of an image in it
_DECODING = threading.Lock()


class Role(NamedTuple):
    """The phrases for a role: "a mechanic", "a woman mechanic", "a man mechanic"."""

    neutral: str
    woman: str
    man: str


@dataclass(frozen=True)
class EmojiSource:
    """Random access to the records of one selection; made by `emoji_source`.

    Attributes:
      columns: all attributes of the records, and "id", as arrays.
      places: for each record, style and number of each of its images; they are decoded when they
        are read, in part all of a style at once, so that a run compiles meanwhile.
      languages: languages of the captions.
      single: whether a record has one image, or a tuple of images.
    """

    columns: Mapping[str, np.ndarray]
    places: Sequence[tuple[Place, ...]]
    languages: tuple[str, ...]
    single: bool

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns one record."""
        record = {k: v[index].item() for k, v in self.columns.items()}
        # Read-only views of arrays that all records share.
        images = tuple(_load_image(style, number) for style, number in self.places[index])
        record["image"] = images[0] if self.single else images
        record["captions"] = emoji_captions_of(record["entry"], self.languages)
        return record


def emoji_source(
    *,
    split: str,
    unit: str = "image",
    variant: str = "balanced",
    styles: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    languages: Sequence[str] = ("en",),
    seed: int = 0,
    rates: Mapping[str, float] | None = None,
    thin: str = "entry",
) -> EmojiSource:
    """Makes the source of a split of the embedded emoji.

    Args:
      split: "train", "images", "style", "concepts" or "all"; see the top of this file.
      unit: "image" gives one record per image. "entry" gives one record per emoji with all its
        images in the split, so that no name occurs twice in an epoch.
      variant: "balanced", "biased" or "uncorrelated"; see `splits.keep_entries`. Only training
        is thinned; the test splits are the same for all variants.
      styles: only these styles; None for all. The splits do not change.
      groups: only these Unicode groups, such as "people-body"; None for all nine.
      languages: languages of the captions; names in the first language come first.
      seed: seed of the thinning.
      rates: rates of the thinning that differ from `splits.RATES`.
      thin: "entry" keeps or drops all images of an emoji together, "drawing" each image separately.

    Returns: records with id, image (uint8 RGBA of 64 x 64), captions, entry, style and `ATTRIBUTES`.
    Raises: ValueError for an unknown name, listing the valid ones, or an empty selection.

        source = emoji_source(split="train", variant="biased")
        source[0]["name"], source.columns["gender"]
    """
    wanted = STYLES if styles is None else tuple(styles)
    _check("split", [split], splits.SPLITS)
    _check("unit", [unit], UNITS)
    _check("variant", [variant], splits.VARIANTS)
    _check("thin", [thin], splits.THINS)
    _check("styles", wanted, STYLES)
    _check("groups", GROUPS if groups is None else groups, GROUPS)
    _check("languages", languages, LANGUAGES)
    thinning = splits.check_rates(rates or {})
    drawings = _load_drawings()
    chosen = np.isin(drawings.style, wanted)
    if groups is not None:
        group = np.asarray([entry["group"] for entry in _load_entries()])
        chosen &= np.isin(group, groups)[drawings.entry]
    if split != "all":
        chosen &= _load_splits() == split
    # Only training is thinned, so that models of all variants are tested on the same images.
    if split == "train":
        how: dict[str, Any] = dict(variant=variant, rates=thinning, seed=seed, thin=thin)
        chosen &= splits.keep_drawings(drawings, _load_entries(), **how)
    if not chosen.any():
        raise ValueError(
            f"no images in split {split!r} with styles {wanted} and groups {groups}; choose others."
        )
    make = _by_image if unit == "image" else _by_entry
    return make(np.flatnonzero(chosen), tuple(languages))


def emoji_labels(language: str = "en") -> list[str]:
    """Returns the name of every emoji; the attribute "entry" of a record is its index here."""
    _check("language", [language], LANGUAGES)
    return [row["name"] for row in _load_names(language)]


def emoji_roles() -> dict[str, Role]:
    """Returns, by concept, the phrases for all roles that exist as person, woman and man."""
    named = {
        (e["concept"], e["gender"]): captions.with_article(e["name"])
        for e in _load_entries()
        if e["role"] == "1" and e["tone"] == "0"
    }
    concepts = sorted({concept for concept, _ in named})
    return {c: Role(named[c, "person"], named[c, "woman"], named[c, "man"]) for c in concepts}


def emoji_twins(style: str) -> dict[str, tuple[str, ...]]:
    """Returns the concepts whose image without gender looks the same as the woman's or the man's.

    Keys are "woman" and "man"; for the default tone of one style. In noto-v1 there are 11 and 22.
    """
    _check("style", [style], STYLES)
    drawings, entries = _load_drawings(), _load_entries()
    same: dict[tuple[str, str], int] = {}
    for row in np.flatnonzero(drawings.style == style).tolist():
        entry = entries[drawings.entry[row]]
        if entry["tone"] == "0" and entry["gender"] in ("person", "woman", "man"):
            same[entry["concept"], entry["gender"]] = int(drawings.same[row])
    people = sorted({concept for concept, gender in same if gender == "person"})
    return {
        g: tuple(c for c in people if (c, g) in same and same[c, g] == same[c, "person"])
        for g in ("woman", "man")
    }


@functools.cache
def emoji_captions_of(entry: int, languages: tuple[str, ...] = ("en",)) -> tuple[str, ...]:
    """Returns the captions of an emoji by its number."""
    row = _load_entries()[entry]
    names = {language: _load_names(language)[entry] for language in languages}
    return captions.captions(row, neutral=_load_neutral()[row["concept"]], names=names)


def _check(argument: str, given: Sequence[str], valid: Sequence[str]) -> None:
    unknown = [name for name in given if name not in valid]
    if unknown or not given:
        raise ValueError(f"{argument}: got {list(given)}, expected some of {list(valid)}.")


def _by_image(rows: np.ndarray, languages: tuple[str, ...]) -> EmojiSource:
    drawings, places = _load_drawings(), _places_of(rows)
    columns = _columns(drawings.entry[rows], drawings.style[rows])
    # An emoji has one image per style, so its own id would come several times.
    ids = [f"{s}/{i}" for s, i in zip(columns["style"], columns["id"], strict=True)]
    columns["id"] = np.asarray(ids)
    return EmojiSource(columns, [(p,) for p in places], languages, single=True)


def _by_entry(rows: np.ndarray, languages: tuple[str, ...]) -> EmojiSource:
    drawings, places = _load_drawings(), _places_of(rows)
    found: dict[int, list[int]] = {}
    for i, entry in enumerate(drawings.entry[rows].tolist()):
        found.setdefault(entry, []).append(i)
    entries = sorted(found)
    grouped = [tuple(places[i] for i in found[e]) for e in entries]
    styles = drawings.style[rows]
    style = ["several" if len(found[e]) > 1 else styles[found[e][0]] for e in entries]
    return EmojiSource(_columns(entries, style), grouped, languages, single=False)


def _places_of(rows: np.ndarray) -> list[Place]:
    """Where the images of the rows are; within a style, images have the same order as in the table."""
    style = _load_drawings().style
    # The first row of each style in the table; image r of a style lies at r minus this in its file.
    first = {name: int(np.argmax(style == name)) for name in np.unique(style[rows]).tolist()}
    return [(str(style[r]), r - first[style[r]]) for r in rows.tolist()]


def _columns(entries: Sequence[int], styles: Sequence[str]) -> dict[str, np.ndarray]:
    table = [_load_entries()[e] for e in entries]
    columns = {k: np.asarray([row[k] for row in table]) for k in ("id", *ATTRIBUTES)}
    columns |= {k: columns[k].astype(np.int64) for k in NUMBERS}
    return {**columns, "style": np.asarray(styles), "entry": np.asarray(entries, np.int64)}


@functools.cache
def _load_entries() -> Table:
    return _read_table("entries.tsv.xz")


@functools.cache
def _load_names(language: str) -> Table:
    return _load_entries() if language == "en" else _read_table(f"names_{language}.tsv.xz")


@functools.cache
def _load_neutral() -> dict[str, str]:
    return captions.neutral_names(_load_entries())


@functools.cache
def _load_drawings() -> splits.Drawings:
    table = _read_table("images.tsv.xz")
    entry, same = (np.asarray([int(row[k]) for row in table]) for k in ("entry", "same"))
    return splits.Drawings(np.asarray([row["style"] for row in table]), entry, same)


@functools.cache
def _load_splits() -> np.ndarray:
    families = [row["family"] for row in _load_entries()]
    return splits.assign_splits(_load_drawings(), families)


def _load_image(style: str, number: int) -> UInt8[np.ndarray, "64 64 4"]:
    """One image of a style; colour is zero where it is transparent."""
    if style == "fluent-3d":
        return _decode_webp(style, number)
    # Else each of the threads that read the first batch would decode them.
    with _DECODING:
        return _decode_images(style)[number]


@functools.cache
def _decode_images(style: str) -> UInt8[np.ndarray, "n 64 64 4"]:
    flat = np.frombuffer(lzma.decompress(_read_images(style)), np.uint8)
    images = flat.reshape(-1, SIZE, SIZE, 1 if style == "fluent-hc" else 4)
    if style == "fluent-hc":  # all black, so the file has only the alpha channel
        images = np.concatenate([np.zeros((*images.shape[:3], 3), np.uint8), images], axis=-1)
    # Records are views of this cached array: an operation in place would change it for the whole run.
    images.setflags(write=False)
    return images


@functools.cache
def _decode_webp(style: str, number: int) -> UInt8[np.ndarray, "64 64 4"]:
    """One image: the file has their number and ends as little-endian uint32, then WebP files."""
    data = _read_images(style)
    count = int(np.frombuffer(data, "<u4", 1)[0])
    # Ends count from behind the table, which has 4 (count + 1) bytes.
    ends = np.frombuffer(data, "<u4", count, offset=4)
    start, end = (int(ends[i]) if i >= 0 else 0 for i in (number - 1, number))
    first = 4 * (count + 1)
    encoded = data[first + start : first + end]
    with Image.open(BytesIO(encoded), formats=("WEBP",)) as image:
        pixels = np.asarray(image.convert("RGBA"))  # an image without transparency is RGB
    # The codec leaves arbitrary colours where alpha is 0.
    pixels = pixels * (pixels[..., 3:] > 0)
    pixels.setflags(write=False)
    return pixels


@functools.cache
def _read_images(style: str) -> bytes:
    return (PACK / IMAGE_FILES[style]).read_bytes()


def _read_table(name: str) -> Table:
    lines = lzma.decompress((PACK / name).read_bytes()).decode().splitlines()
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]
