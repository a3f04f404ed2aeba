"""Small JSON files: written so that every reader takes them, read as an object or an error that names them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SHOWN = 60  # characters of a file in a message


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Returns a value as JSON; numbers that are not finite become null.

    Python's own writer makes NaN and Infinity of them, which no other reader takes.
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def read_object(path: Path, *, advice: str) -> dict[str, Any]:
    """Returns the JSON object in a file, on a disk or in a bucket.

    Args:
      path: of the file.
      advice: what to do with a damaged one, part of a sentence: "restore it from a copy".

    Raises:
      ValueError: it is empty, cut off, not JSON, or another value than an object; names the file.
      OSError: it cannot be read.
    """
    return parse_object(path.read_bytes(), str(path), advice=advice)


def parse_object(content: bytes, where: str, *, advice: str) -> dict[str, Any]:
    """Returns the JSON object in `content`; `where` and `advice` are for the error, as above."""
    # "replace": the message must be readable even if the file is binary.
    shown = content[:_SHOWN].decode("utf-8", errors="replace")
    expected = f"{where}: got {shown!r}, expected a JSON object"
    try:
        value = json.loads(content.decode("utf-8"))
    # Of bytes that are not UTF-8, of text that is not JSON, of brackets without an end.
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{expected} ({reason}); {advice}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{expected}; {advice}.")
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
