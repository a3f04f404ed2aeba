"""What makes a record or a file bad: the only boundary between their contents and the run."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bias_clip.core.visible import is_blank

_SHOWN = 2000  # characters of a message


@contextlib.contextmanager
def record_fault(what: str = "", *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns any error of reading one record into a ValueError, with `what` in front if it is given.

    This is the boundary between a record and the run. On damaged bytes, codecs and tokenizers raise
    RuntimeError, AssertionError, struct.error and errors of their own. None of them may end a run, so
    whoever reads a record only has to handle ValueError.

    MemoryError passes, because then the host and not the record is at fault. KeyboardInterrupt and
    others that are not an `Exception` pass too, and so do those of `passing`.

        with record_fault("the caption of record 7"):
            tokens = encode(caption)
    """
    where = f"{what}: " if what else ""
    try:
        yield
    except Exception as error:  # broad here and nowhere else: see above
        if isinstance(error, (MemoryError, *passing)):
            raise
        # Messages of ValueErrors stand for themselves. Of the others many have no text at all, such as
        # AssertionError, so that their type is the only clue.
        said = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{where}{said}") from error


@contextlib.contextmanager
def file_fault(
    path: str | Path, *, advice: str = "it is damaged", passing: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turns any error of reading a file into a ValueError of one line that names it.

    Args:
      path: of the file; a message that has it already stays, on one line.
      advice: ends the message.
      passing: errors that are no fault of the file, such as those of a network.
    """
    try:
        with record_fault(passing=passing):
            yield
    # A damaged length makes a reader ask for more memory than there is.
    except (ValueError, MemoryError) as error:
        said = " ".join(str(error).split())[:_SHOWN] or type(error).__name__
        if str(path) not in said:
            said = f"{path} cannot be read: {said}; {advice}."
        raise ValueError(said) from error


def captions(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the captions of a record, empty ones included.

    Raises: ValueError if they are one string, which would be read letter by letter, or if one of them
      is not a string: None or a number is an error of the table and not a caption.
    """
    given = record["captions"]
    if not isinstance(given, list | tuple) or not all(isinstance(text, str) for text in given):
        raise ValueError(f"captions are {str(given)[:60]!r}, expected a tuple of strings")
    return tuple(given)


def visible_captions(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the captions with visible text; raises ValueError like `captions`."""
    return tuple(text for text in captions(record) if not is_blank(text))
