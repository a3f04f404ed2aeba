"""What makes a record bad: the one boundary between what strangers' records hold and the run."""

import contextlib
from collections.abc import Iterator

from bias_clip.core.visible import is_blank
from bias_clip.data.records import Record


@contextlib.contextmanager
def record_fault(what: str = "") -> Iterator[None]:
    """Makes whatever reading one record raises a ValueError, after `what` failed where that is given.

    This is the boundary between a record and the run. Codecs and tokenizers raise what they like on
    damaged bytes: RuntimeError, AssertionError, struct.error, errors of their own. None of it may end
    a run, so the caller of a record handles ValueError and nothing else.

    MemoryError passes, because the host is short of memory and not the record at fault; so do
    KeyboardInterrupt and the other exceptions that are no `Exception`.

        with record_fault("the caption of record 7"):
            tokens = encode(caption)
    """
    where = f"{what}: " if what else ""
    try:
        yield
    except MemoryError:
        raise
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error
    except Exception as error:  # broad here and nowhere else: the boundary of a record
        raise ValueError(f"{where}{type(error).__name__}: {error}") from error


def captions(record: Record) -> tuple[str, ...]:
    """Returns the captions of a record, empty ones included.

    Raises: ValueError where they are one string, which would be taken letter by letter, or where one
      is not a string: None or a number is a fault of the table and not a caption.
    """
    given = record["captions"]
    if not isinstance(given, list | tuple) or not all(isinstance(text, str) for text in given):
        raise ValueError(f"captions are {str(given)[:60]!r}, expected a tuple of strings")
    return tuple(given)


def visible_captions(record: Record) -> tuple[str, ...]:
    """Returns the captions in which a reader sees something; raises ValueError as `captions`."""
    return tuple(text for text in captions(record) if not is_blank(text))
