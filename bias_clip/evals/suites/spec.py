"""A suite is one file: prompts, templates, classes, groups, split, metric, source and licence."""

import importlib.resources
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bias_clip.core.registry import look_up

FAMILIES = (
    "association",
    "association_test",
    "berg",
    "fairness",
    "neutral",
    "representation",
    "retrieval",
    "sispi",
    "sobit",
    "visogender",
    "worst_group",
    "zeroshot",
)
# The folder is the list: a new file is a new suite.
SUITES: tuple[str, ...] = tuple(
    sorted(
        entry.name.removesuffix(".toml")
        for entry in (importlib.resources.files(__package__) / "files").iterdir()
        if entry.name.endswith(".toml")
    )
)


@dataclass(frozen=True)
class Suite:
    """What a file in `files` says.

    Attributes:
      name: of the file.
      title: in words.
      family: which functions score it, one of `FAMILIES`.
      metric: what is measured, in words.
      source: paper, repository and file.
      licence: of the prompts and of the data, as far as it is known.
      split: which images.
      ours: whether prompts or words are of this project, so that no published number compares.
      templates: with "{}" for the word; where objectives differ, see `prompts`.
      prompts: key (kind of word, objective) to template.
      classes: key to class names in the published order.
      groups: column to the names of its codes in the published order.
      words: word lists that may be shipped.
      needs: role to the user's copy of a file that may not be shipped, in words.
      layout: how the data set lies on disk, a name in `layouts.LAYOUTS`; empty for none.
      options: arguments of the scoring function.
      arguments: of the layout's reader.
    """

    name: str
    title: str
    family: str
    metric: str
    source: str
    licence: str
    split: str
    ours: bool
    templates: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    layout: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)


def load_suite(name: str) -> Suite:
    """Returns the suite of that name in `SUITES`.

    Raises:
      ValueError: there is none; or the file has a missing or unknown key.
    """
    look_up("suite", name, dict.fromkeys(SUITES))
    text = (importlib.resources.files(__package__) / "files" / f"{name}.toml").read_text("utf-8")
    return parse_suite(name, text)


def parse_suite(name: str, text: str) -> Suite:
    """Reads the text of a suite's file.

    Raises:
      ValueError: it is not TOML, has a missing or unknown key, or another family.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"suite {name!r} is not TOML: {error}; correct the file.") from error
    fields = Suite.__dataclass_fields__
    required = {"title", "family", "metric", "source", "licence", "split", "ours"}
    unknown, absent = (
        # The name is that of the file: a key of that name could contradict it.
        sorted(table.keys() - fields.keys() | (table.keys() & {"name"})),
        sorted(required - table.keys()),
    )
    if unknown or absent:
        raise ValueError(
            f"suite {name!r} has unknown keys {unknown} and lacks {absent}; expected keys of "
            f"{sorted(fields.keys() - {'name'})}, {sorted(required)} at least."
        )
    if table["family"] not in FAMILIES:
        raise ValueError(
            f"suite {name!r} has family {table['family']!r}; expected one of {list(FAMILIES)}."
        )
    return Suite(name=name, **{key: _frozen(key, value) for key, value in table.items()})


def _frozen(key: str, value: Any) -> Any:
    """Lists as tuples, except in `options` and `arguments`."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict) and key not in ("options", "arguments"):
        return {name: _frozen(name, part) for name, part in value.items()}
    return value
