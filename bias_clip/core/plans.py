"""Checks whether an existing result was made with the requested plan, and says how they differ.

A plan contains everything that a result depends on, as JSON values. A tool that writes a result in
parts stores the plan beside it, and continues only when the same plan is requested again.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bias_clip.core.json_object import read_object
from bias_clip.core.write import PARTIAL, write_file

PLAN = "plan.json"
SHOWN = 12  # differences in a message
_LONGEST = 200  # characters of a value in a message


def check_same_plan(
    claim: str,
    there: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    advice: str,
    may_change: Iterable[str] = (),
) -> None:
    """Raises ValueError, "<claim> (<differences>). <advice>", unless two plans are equal.

    Args:
      claim: such as "runs/emoji holds a run of another config".
      there: the plan of the existing result.
      now: the requested plan.
      advice: what to do, one or more sentences.
      may_change: see `differences`.
    """
    differ = differences(there, now, may_change=may_change)
    if differ:
        more = [f"and {len(differ) - SHOWN} more"] if len(differ) > SHOWN else []
        raise ValueError(f"{claim} ({'; '.join(differ[:SHOWN] + more)}). {advice}")


def differences(
    there: Mapping[str, Any], now: Mapping[str, Any], *, may_change: Iterable[str] = ()
) -> list[str]:
    """Returns "a.b: 1 there, 2 now" for each entry in which two nested plans differ.

    Plans are compared as JSON returns them, so a tuple equals a list. An absent entry equals None, so
    a plan that was written before a key existed still matches.

    Args:
      there, now: the plans.
      may_change: entries that may differ, with everything below them: "a", "a.b".
    """
    free = tuple(may_change)
    # Through JSON: tuples become lists and integer keys text, as in the plan that was read.
    flat_there, flat_now = (_flat(json.loads(json.dumps(plan))) for plan in (there, now))
    return [
        f"{key}: {_short(flat_there.get(key))} there, {_short(flat_now.get(key))} now"
        for key in {**flat_now, **flat_there}
        if flat_there.get(key) != flat_now.get(key)
        and not any(key == name or key.startswith(f"{name}.") for name in free)
    ]


def claim_folder(
    folder: Path, plan: Mapping[str, Any], *, claim: str, advice: str, ignore: Iterable[str] = ()
) -> None:
    """Assigns a folder to this plan: writes plan.json into a new folder, or compares it.

    Args:
      folder: a folder that need not exist.
      plan: JSON values.
      claim, advice: parts of the message, see `check_same_plan`.
      ignore: names of files that a folder without a plan may contain.

    Raises:
      ValueError: the folder belongs to another plan or contains other files; the message says which.
      OSError: it cannot be written.
    """
    path = folder / PLAN
    if path.is_file():
        there = read_object(path, advice="restore it from a copy, or delete the folder")
        check_same_plan(claim, there, plan, advice=advice)
        return
    folder.mkdir(parents=True, exist_ok=True)
    # What a killed writer of the plan left does not make the folder a stranger's.
    own = {PLAN + PARTIAL, *ignore}
    strangers = sorted(found.name for found in folder.iterdir() if found.name not in own)
    if strangers:
        raise ValueError(f"{folder} holds other things, {strangers[:5]}; choose another folder.")
    write_file(path, json.dumps(plan, indent=2) + "\n")


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """A nested plan as {"a.b": value}, lists of dicts by their index; an empty dict is a value."""
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        parts = enumerate(value)
    flat = {
        key: leaf
        for part, inner in parts
        for key, leaf in _flat(inner, f"{name}.{part}" if name else str(part)).items()
    }
    return flat or ({name: value} if name else {})


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
