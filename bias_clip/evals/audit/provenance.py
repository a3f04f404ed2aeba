"""Which model an audit is of: what the user named, its format, step, size, and a digest."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bias_clip.core.formatting import format_number

DIGITS = 16  # of a digest that are shown; two models share 64 bits only on purpose


class Provenance(NamedTuple):
    """Which model an audit is of.

    Attributes:
      given: the path, files or identity as the user gave it; nothing of this machine is added.
      format: "run", "published checkpoint", "embeddings" or "functions".
      details: further facts of the format, such as the layout and the revision; may be empty.
      step: of a run's checkpoint; None for anything else.
      parameters: how many numbers the model has; None if only its outputs are known.
      sha256: what was hashed ("parameters", the name of a file, or "identity") to its SHA-256.
    """

    given: str
    format: str
    details: str
    step: int | None
    parameters: int | None
    sha256: Mapping[str, str]


def provenance_line(model: Mapping[str, Any]) -> str:
    """Which model it is, in one line of text.

    Args:
      model: its name and provenance as `audit.json` holds them.
    """
    found = model["provenance"]
    step, parameters = found["step"], found["parameters"]
    parts = [
        found["given"],
        found["format"],
        found["details"],
        "" if step is None else f"step {format_number(step)}",
        "" if parameters is None else f"{format_number(parameters)} parameters",
        "SHA-256 of " + ", ".join(f"{what} {x[:DIGITS]}" for what, x in found["sha256"].items()),
    ]
    # A path may hold any character; a line break would end the comment that holds the line.
    return " ".join(f"{model['name']}: {', '.join(part for part in parts if part)}".split())
