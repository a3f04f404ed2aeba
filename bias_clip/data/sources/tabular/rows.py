"""From a table's row to a record: which columns are image, captions, id and attributes."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from bias_clip.data.records import LazyColumns, Record, is_missing, text_array
from bias_clip.data.sources.tabular.contained import Roots, read_contained

# Names of these columns in published data sets; the first one that a table has is used.
IMAGES = (
    "image images jpg jpeg png webp img image_bytes bytes filepath file_path file_name filename image_path "
    "image_file image_name img_path path file image_url url"
).split()
CAPTIONS = (
    "caption captions text title sentences sentence txt description comment caption_reference_description "
    "conversations"
).split()
IDS = ("id", "uid", "key")
_NAMED_FILE = "_file_name"  # ending of further image columns of an image folder
_NOT_SAID = ("human", "user", "system")  # speakers in a conversation about an image


class Rows(Protocol):
    """The rows of one or more tables."""

    @property
    def names(self) -> Sequence[str]:
        """Returns the names of all columns."""

    def __len__(self) -> int:
        """Returns the number of rows."""

    def row(self, index: int, names: Sequence[str]) -> dict[str, Any]:
        """Returns some columns of a row, as they are written; None if a value is missing.

        Rows of tables also have "table", the table's name without its ending, and "row", their number
        in it, from 0.
        """

    def attributes(self, index: int, names: Sequence[str]) -> dict[str, Any]:
        """Returns some columns of a row, with the types that `column` gives them."""

    def values(self, name: str) -> list[Any]:
        """Returns one column of all rows as `row` does."""

    def column(self, name: str) -> np.ndarray:
        """Returns one column of all rows as an array, see `as_array`."""


class Layout(NamedTuple):
    """The columns that a record is made of.

    Attributes:
      image: columns, or templates such as "{type}/{id}.jpg"; several give a record several images.
      captions: columns or templates, in this order.
      identity: a template of the id.
      attributes: the columns that are kept.
      roots: where image files are.
    """

    image: tuple[str, ...]
    captions: tuple[str, ...]
    identity: str
    attributes: tuple[str, ...]
    roots: Roots


def make_layout(
    names: Sequence[str],
    *,
    table: str,
    roots: Roots,
    image: str | Sequence[str] | None = None,
    captions: str | Sequence[str] | None = None,
    identity: str | None = None,
    attributes: Sequence[str] | None = None,
) -> Layout:
    """Completes the given layout by the usual names of columns, and logs what it chose.

    A column called id, image or captions that is not used is dropped, because records use these names.

    Raises: ValueError for a column that does not exist, or if no column is known to hold images.
    """
    given = [image, captions, identity]
    chosen_image = _several(image, "image") or _guess_image(names, table)
    # One string is refused: "caption" would be taken as seven columns of a letter.
    chosen_captions = _several(captions, "captions", one=False)
    if captions is None:
        chosen_captions = _first(names, CAPTIONS, but=chosen_image)
    if identity is None:
        own = _first(names, IDS, but=chosen_image)
        identity = f"{{{own[0]}}}" if own else "{table}/{row}"
    used = {name for text in (*chosen_image, *chosen_captions) for name in columns_of(text)}
    unknown = sorted((used | set(columns_of(identity))) - {*names, "table", "row"})
    unknown = unknown or sorted(set(attributes or ()) - set(names))
    if unknown:
        raise ValueError(f"{table} has no column {unknown[0]!r}; it has {sorted(names)}.")
    if attributes is None:
        # A column within a template, such as {type}, stays an attribute; one that is the image itself does
        # not.
        whole = {text for text in (*chosen_image, *chosen_captions) if "{" not in text}
        attributes = [n for n in names if n not in whole and n not in ("id", "image", "captions")]
    if not chosen_captions and captions is None:
        logging.getLogger(__name__).warning(
            "%s: no column is known to be captions; it has %s. Name them by `captions`.",
            table,
            names,
        )
    if None in given:
        logging.getLogger(__name__).info(
            "%s: image from %s, captions from %s, id %r",
            table,
            chosen_image,
            chosen_captions,
            identity,
        )
    return Layout(chosen_image, chosen_captions, identity, tuple(attributes), roots)


def columns_of(text: str) -> list[str]:
    """The columns that a template names; a text without braces is itself the name of a column."""
    # "!" and ":" would begin a conversion or a format, which `str.format` supports and we do not.
    return re.findall(r"\{([^{}!:]*)\}", text) if "{" in text else [text]


class RowRecords:
    """Records made of rows; image files are read when a record is asked for."""

    def __init__(
        self,
        rows: Rows,
        layout: Layout,
        *,
        threads: int = 1,
        groups: Sequence[Sequence[int]] | None = None,
    ):
        """Takes rows, of one record each or in groups of one each, and the layout of a record.

        `threads` is the number of records that `read_many` reads concurrently, for remote images.
        """
        self._threads = threads
        self._groups = groups
        self._rows = rows
        self._layout = layout
        texts = (*layout.image, *layout.captions, layout.identity)
        self._needed = tuple(dict.fromkeys(name for text in texts for name in columns_of(text)))
        self.columns = LazyColumns(("id", *layout.attributes), self._column)

    def __len__(self) -> int:
        return len(self._rows if self._groups is None else self._groups)

    def __getitem__(self, index: int) -> Record:
        # Negative indices, and IndexError beyond the end, as for a list.
        index = range(len(self))[index]
        group = [index] if self._groups is None else self._groups[index]
        rows = [self._rows.row(i, self._needed) for i in group]
        row = rows[0]
        name = fill(self._layout.identity, row, "id")
        try:
            images = [
                image
                for text in self._layout.image
                for image in images_of(_value(text, row, "image"), self._layout.roots)
            ]
            captions = [
                caption
                for own in rows
                for text in self._layout.captions
                for caption in captions_of(_caption(text, own))
            ]
        except ValueError as error:
            raise ValueError(f"image or captions of record {name!r}: {error}") from error
        return {
            "id": name,
            "image": images[0] if len(images) == 1 else tuple(images),
            "captions": tuple(captions),
            **self._rows.attributes(group[0], self._layout.attributes),
        }

    def read_many(self, indices: Sequence[int]) -> list[Record | ValueError]:
        """Returns several records; in place of a broken one, the error that reading it raises.

        They are read in the order of the rows, so that each row group is read once.
        """
        # A shuffled chunk would otherwise read a row group once per record.
        order = sorted(set(indices))
        if self._threads == 1:
            found = [self._try(index) for index in order]
        else:
            with ThreadPoolExecutor(min(self._threads, len(order) or 1)) as pool:
                found = list(pool.map(self._try, order))
        records = dict(zip(order, found, strict=True))
        return [records[index] for index in indices]

    def _try(self, index: int) -> Record | ValueError:
        try:
            return self[index]
        except ValueError as error:
            return error

    def numbered(self) -> bool:
        """Whether ids cannot be equal, because they are the row numbers of one table."""
        identity = self._layout.identity
        return identity == "{table}/{row}" and len(set(self._rows.values("table"))) <= 1

    def image_names(self) -> list[str]:
        """The paths of all images that columns hold as text."""
        columns = (
            self._rows.values(name) for name in self._layout.image if name in self._rows.names
        )
        return [value for values in columns for value in values if isinstance(value, str)]

    def _column(self, name: str) -> np.ndarray:
        first = slice(None) if self._groups is None else [group[0] for group in self._groups]
        if name != "id":
            return self._rows.column(name)[first]
        parts = list(dict.fromkeys(columns_of(self._layout.identity)))
        columns = zip(*(self._rows.values(part) for part in parts), strict=True)
        rows = (dict(zip(parts, values, strict=True)) for values in columns)
        return text_array([fill(self._layout.identity, row, "id") for row in rows])[first]


def fill(template: str, row: Mapping[str, Any], what: str) -> str:
    """Fills a template with a row's values.

    Raises: ValueError for a value that is missing.
    """
    gaps = [name for name in columns_of(template) if is_missing(row.get(name))]
    if gaps:
        raise ValueError(f"no {what}: the column {gaps[0]!r} is empty.")
    return template.format(**row)


def captions_of(value: Any) -> tuple[str, ...]:
    """The captions that a cell holds: a text is one, a list holds several, a missing value none.

    All texts of a dict by language are captions; from a list of dicts, those under "raw" or "caption";
    from a conversation, the answers.

    Raises: ValueError for anything else, such as a number, whose digits are not a caption.
    """
    if is_missing(value):
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Mapping):
        # A turn of a conversation in LLaVA's form: what the person asks is not a caption.
        if "from" in value and "value" in value:
            return () if value["from"] in _NOT_SAID else captions_of(value["value"])
        known = [key for key in ("raw", "caption") if key in value]
        return captions_of(value[known[0]] if known else list(value.values()))
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(text for part in value for text in captions_of(part))
    raise ValueError(f"got the caption {value!r:.80}; expected text, or a list of texts.")


def images_of(value: Any, roots: Roots) -> tuple[bytes, ...]:
    """The images that a cell holds: bytes, the path of a file, {bytes, path}, or a list of those.

    Raises: ValueError if there is none.
    """
    if isinstance(value, bytes) and value:
        return (value,)
    if isinstance(value, Mapping):
        inner = value.get("bytes")
        # Bytes first: the path that is stored beside them is that of the machine that wrote them.
        return images_of(value.get("path") if is_missing(inner) or inner == b"" else inner, roots)
    if isinstance(value, list | tuple):
        found = [image for part in value if part is not None for image in images_of(part, roots)]
        if found:
            return tuple(found)
    if isinstance(value, str) and value:
        return (read_contained(value, roots),)
    raise ValueError(f"no image: got {value!r:.80}; expected bytes, or the path of a file.")


def plain(value: Any) -> Any:
    """An attribute as it is stored: text, numbers and booleans unchanged, everything else as JSON text."""
    if is_missing(value):
        return None
    return value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


def _value(text: str, row: Mapping[str, Any], what: str) -> Any:
    return fill(text, row, what) if "{" in text else row.get(text)


def _caption(text: str, row: Mapping[str, Any]) -> Any:
    if "{" in text and any(is_missing(row.get(name)) for name in columns_of(text)):
        return None
    return _value(text, row, "caption")


def _several(given: str | Sequence[str] | None, what: str, *, one: bool = True) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str) and not one:
        raise ValueError(f"{what} is {given!r}; expected a list of columns, as ({given!r},).")
    return (given,) if isinstance(given, str) else tuple(given)


def _guess_image(names: Sequence[str], table: str) -> tuple[str, ...]:
    found = _first(names, IMAGES) or tuple(n for n in names if n.endswith(_NAMED_FILE))
    if not found:
        raise ValueError(
            f"{table}: which column is the image? It has {sorted(names)}; name it by `image`, as "
            "image='{folder}/{name}.jpg'."
        )
    return found


def _first(names: Sequence[str], known: Sequence[str], but: Sequence[str] = ()) -> tuple[str, ...]:
    return next(((name,) for name in known if name in names and name not in but), ())
