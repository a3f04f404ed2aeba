"""Which members of a sample are its images, captions and attributes; decided once per layout.

A layout is the fields of a sample, such as ("jpg", "json", "txt"). Almost all samples of a data set have
the same layout, so nothing needs to be decided per sample.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from bias_clip.data.sources.tar.samples import IMAGES, is_image, is_text, last_part

_JSON_CAPTIONS = ("caption", "captions", "text")
_INTEGERS = ("cls", "id", "index", "count")  # as webdataset's writer
_UNPACK_ERRORS = (OSError, EOFError, zlib.error)
OWN = ("id", "image", "captions", "key", "shard")


class Choice(NamedTuple):
    """Which members of a layout are read, by their number.

    Attributes:
      images: one, or several that are equally good.
      captions: the member, and the path of keys in its JSON, or None if the member is the caption.
      attributes: the other members that are read.
    """

    images: tuple[int, ...]
    captions: tuple[tuple[int, str | None], ...]
    attributes: tuple[int, ...]

    def members(self) -> list[int]:
        """All members that are read, each once."""
        return sorted({*self.images, *(m for m, _ in self.captions), *self.attributes})


def choose(
    fields: Sequence[str],
    *,
    image: Sequence[str] | None,
    captions: Sequence[str] | None,
    attributes: Sequence[str] | None,
) -> Choice | None:
    """Chooses from the fields of a layout, see `webdataset_source`; None without an image or a caption."""
    images = _images(fields, image)
    texts = _captions(fields, captions)
    if not images or not (texts or captions == ()):
        return None
    # A JSON member that holds the caption may hold attributes too, so it is not taken.
    taken = {*images, *(member for member, key in texts if key is None)}
    side = [n for n, field in enumerate(fields) if n not in taken and _is_side(field, attributes)]
    return Choice(images, texts, tuple(side))


def decode(fields: Sequence[str], choice: Choice, data: Mapping[int, bytes]) -> dict[str, Any]:
    """Makes image, captions and attributes of a sample from its members' bytes.

    Raises:
      ValueError: a caption is not UTF-8, or a JSON member with captions is broken. A broken attribute
        only sets the attribute "<field>_error", and the pair is kept.
    """
    images = tuple(_unpacked(fields[n], data[n]) for n in choice.images)
    captions: list[str] = []
    for member, path in choice.captions:
        captions += _texts(fields[member], data[member], path)
    record = {
        "image": images[0] if len(images) == 1 else images,
        # img2dataset stores the caption as .txt and in .json: the same text once.
        "captions": tuple(dict.fromkeys(captions)),
    }
    for member in choice.attributes:
        field = fields[member]
        try:
            found = _attributes(field, data[member])
        except ValueError as error:
            found = {f"{field}_error": str(error)}
        for name, value in found.items():
            # A key that is taken gets its field in front, so that no attribute hides an id or a caption.
            record[name if name not in record and name not in OWN else f"{field}.{name}"] = value
    return record


def _images(fields: Sequence[str], image: Sequence[str] | None) -> tuple[int, ...]:
    patterns = image if image is not None else (*IMAGES, *(f"{ending}.gz" for ending in IMAGES))
    # The first pattern that matches wins, in the order in which the user wrote them.
    for pattern in patterns:
        found = tuple(n for n, field in enumerate(fields) if fnmatchcase(field, pattern))
        if found:
            return found
    if image is not None:
        return ()
    return tuple(n for n, field in enumerate(fields) if is_image(field))


def _captions(
    fields: Sequence[str], captions: Sequence[str] | None
) -> tuple[tuple[int, str | None], ...]:
    if captions is None:
        captions = _usual_captions(fields)
    found: list[tuple[int, str | None]] = []
    for wanted in captions:
        pattern, colon, path = wanted.partition(":")
        members = [n for n, field in enumerate(fields) if fnmatchcase(field, pattern)]
        found += [(member, path if colon else None) for member in members]
    return tuple(dict.fromkeys(found))


def _usual_captions(fields: Sequence[str]) -> Sequence[str]:
    for plain in ("txt", "txt.gz"):
        if plain in fields:
            return (plain,)
    texts = [field for field in fields if is_text(field)]
    tables = [field for field in fields if last_part(field) == "json"]
    return texts or [f"{table}:" for table in tables]


def _is_side(field: str, wanted: Sequence[str] | None) -> bool:
    if wanted is not None:
        return any(fnmatchcase(field, pattern) for pattern in wanted)
    return is_text(field) or last_part(field) in _READERS


def _unpacked(field: str, data: bytes) -> bytes:
    if not field.endswith(".gz"):
        return data
    try:
        return gzip.decompress(data)
    except _UNPACK_ERRORS as error:
        raise ValueError(f"the member {field!r} cannot be unpacked: {error}") from error


def _text(field: str, data: bytes) -> str:
    try:
        return _unpacked(field, data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the member {field!r} is not UTF-8: {error}") from error


def _json(field: str, data: bytes) -> Any:
    try:
        return json.loads(_text(field, data))
    except json.JSONDecodeError as error:
        raise ValueError(f"the member {field!r} is not JSON: {error}") from error


def _texts(field: str, data: bytes, path: str | None) -> list[str]:
    if path is None:
        return [_text(field, data)]
    value = _json(field, data)
    if path == "":
        found = value if isinstance(value, dict) else {}
        return [text for key in _JSON_CAPTIONS for text in _strings(found.get(key))]
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return _strings(value)


def _strings(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(one) for one in values if isinstance(one, str | int | float)]


def _attributes(field: str, data: bytes) -> dict[str, Any]:
    reader = _READERS.get(last_part(field))
    if reader is not None:
        return reader(field, data)
    return {field: _text(field, data) if is_text(field) else data}


def _read_json(field: str, data: bytes) -> dict[str, Any]:
    value = _json(field, data)
    if not isinstance(value, dict):
        return {field: json.dumps(value, ensure_ascii=False)}
    return {name: _plain(one) for name, one in value.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    return json.dumps(value, ensure_ascii=False)


def _read_integer(field: str, data: bytes) -> dict[str, Any]:
    try:
        return {field: int(_text(field, data))}
    except ValueError as error:
        raise ValueError(f"the member {field!r} is not an integer: {data[:20]!r}") from error


def _read_npy(field: str, data: bytes) -> dict[str, Any]:
    try:
        # allow_pickle=False: a pickle in a downloaded file could run any program.
        return {field: np.load(io.BytesIO(_unpacked(field, data)), allow_pickle=False)}
    except (EOFError, OSError) as error:
        raise ValueError(f"the member {field!r} is not an array: {error}") from error


def _read_npz(field: str, data: bytes) -> dict[str, Any]:
    arrays = _read_npy(field, data)[field]
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError(f"the member {field!r} is not a file of several arrays")
    return {name: arrays[name] for name in arrays.files}


_READERS: dict[str, Callable[[str, bytes], dict[str, Any]]] = {
    "json": _read_json,
    "npy": _read_npy,
    "npz": _read_npz,
    **dict.fromkeys(_INTEGERS, _read_integer),
}
