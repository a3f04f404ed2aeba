"""What makes a record bad: the one boundary between what strangers' records hold and the run."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from bias_clip.core.visible import is_blank


@contextlib.contextmanager
def record_fault(what: str = "", *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Makes whatever reading one record raises a ValueError, after `what` failed where that is given.

    This is the boundary between a record and the run. Codecs and tokenizers raise what they like on
    damaged bytes: RuntimeError, AssertionError, struct.error, errors of their own. None of it may end
    a run, so the caller of a record handles ValueError and nothing else.

    MemoryError passes, because the host is short of memory and not the record at fault; so do
    KeyboardInterrupt and the other exceptions that are no `Exception`, and those of `passing`.

        with record_fault("the caption of record 7"):
            tokens = encode(caption)
    """
    where = f"{what}: " if what else ""
    try:
        yield
    except Exception as error:  # broad here and nowhere else: the boundary of a record
        if isinstance(error, (MemoryError, *passing)):
            raise
        said = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{where}{said}") from error


def captions(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the captions of a record, empty ones included.

    Raises: ValueError where they are one string, which would be taken letter by letter, or where one
      is not a string: None or a number is a fault of the table and not a caption.
    """
    given = record["captions"]
    if not isinstance(given, list | tuple) or not all(isinstance(text, str) for text in given):
        raise ValueError(f"captions are {str(given)[:60]!r}, expected a tuple of strings")
    return tuple(given)


def visible_captions(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the captions in which a reader sees something; raises ValueError as `captions`."""
    return tuple(text for text in captions(record) if not is_blank(text))
