"""What the writers of tokenizer files say of a rule that a layout does not have."""

from collections.abc import Mapping
from typing import Any

_DEFAULTS: dict[str, Any] = {"lower": True, "bos": False, "eos": "sticky", "eos_id": None}


def need(layout: str, rules: Mapping[str, Any], name: str, expected: Any) -> None:
    """Raises ValueError unless a rule of `make_text_fn` has the value that the layout implies."""
    got = rules.get(name, _DEFAULTS[name])
    if got != expected:
        raise refused(layout, name, got, repr(expected))


def other_form(library: str, what: str) -> str:
    """The note on captions that the library reads differently."""
    return (
        f"The tokenizer of {library} {what}; this model's did otherwise, so such captions differ."
    )


def refused(layout: str, name: str, got: Any, expected: str) -> ValueError:
    """The error for a rule without a place."""
    return ValueError(
        f"{name} of the texts is {got!r}; the {layout} layout can only say {expected}. Export to another "
        "layout, or leave the tokenizer out."
    )
