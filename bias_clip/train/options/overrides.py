"""Config keys set from the command line: any key that the schema or a receiver has."""

import ast
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Any

import ml_collections

from bias_clip.core.registry import refuse_unknown
from bias_clip.data.stream.batch import ATTRIBUTES
from bias_clip.train.config import refuse_renamed
from bias_clip.train.optim.optimizer import make_optimizer
from bias_clip.train.optim.transforms import TRANSFORMS
from bias_clip.train.options.receivers import Receiver, Section, at, receiver_of
from bias_clip.train.options.schema import default_config

_CHOOSES = ("name", "type")  # keys that choose the function that receives the rest of their section
_REMOVABLE = ("objective", "evals")  # sections whose entries `None` removes


def apply_overrides(config: ml_collections.ConfigDict, overrides: Iterable[str]) -> None:
    """Sets keys of `config`, in place, also those that its file does not set.

    Args:
      config: from `load_config`.
      overrides: "data.source.path=a.tar", "objective.fairkl.coef=0.1", "evals.zs.k=5". The text is
        read by the type of the argument in its receiver's signature; `None` for a term or an
        evaluator removes it. Names and types (`data.source.name`, `evals.zs.type`) are set first;
        arguments of the old one that the new one does not take are dropped.

    Raises:
      ValueError: no "=", a key that is unknown (the message has the nearest one) or has a new name, or
        a text that is not of the key's type.
    """
    pairs = [_split(override) for override in overrides]
    refuse_renamed(".".join(path) for path, _ in pairs)
    # Names first, because they decide which other keys are valid; sections before their keys, because
    # setting a section replaces all of them.
    pairs.sort(key=lambda pair: (pair[0][-1] not in _CHOOSES, len(pair[0])))
    with config.unlocked(), config.ignore_type():
        for path, text in pairs:
            if len(path) == 2 and path[0] in _REMOVABLE and text == "None":
                _remove(config, path)
                continue
            _set(config, path, read_value(_name(path), text, type_of(config, path)))
            if path[-1] in _CHOOSES:
                _drop_foreign(config, path[:-1])


def type_of(config: ml_collections.ConfigDict, path: Section) -> Any:
    """Returns the type of the value at `path`, also if the config does not set it; Any if it is free.

    Raises:
      ValueError: the key is unknown; lists the valid ones, and the one of the nearest spelling.
    """
    schema: Any = default_config()
    for depth in range(len(path)):
        section, key = path[:depth], path[depth]
        if section[:1] == ("data",) and section[1:2] == ("columns",):
            if depth == 2:
                refuse_unknown(_name(section), [key], ATTRIBUTES)
            return Any
        types = _types(config, schema, section, key)
        if types is None:
            continue  # an evaluator of a new name, or the inside of an argument
        refuse_unknown(_name(section), [key], types)
        if depth == len(path) - 1:
            return types[key]
    return Any


def read_value(where: str, text: str, hint: Any) -> Any:
    """Returns `text` read as a value of the type `hint`.

    Raises:
      ValueError: the text is not a value of that type.
    """
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    free = Any in options or not set(options) <= {str, int, float, bool, NoneType}
    if text == "None" and (free or NoneType in options):
        return None
    if bool in options and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        if kind in options and (number := _number(text, kind)) is not None:
            return number
    if str in options:
        return text
    if free:
        return _literal(text, options)
    names = " or ".join("None" if o is NoneType else o.__name__ for o in options)
    raise ValueError(f"{where} is {text!r}; expected {names}.")


def _split(override: str) -> tuple[Section, str]:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ValueError(f"got {override!r}; expected key=value, such as 'data.source.path=a.tar'.")
    return tuple(key.split(".")), text


def _types(
    config: ml_collections.ConfigDict, schema: Any, section: Section, key: str
) -> Mapping[str, Any] | None:
    """The keys that a section may have, with their types; None if it may have any."""
    if section == ("optimizer",):
        return _optimizer_types(config)
    if _chooses(section, key):
        return {key: str}
    receiver = receiver_of(config, section)
    if receiver is not None:
        return _receiver_types(receiver)
    known = at(schema, section)
    if section in (("objective",), ("evals",)) or not hasattr(known, "keys"):
        return None
    return {name: _schema_type(value) for name, value in known.items()}


def _chooses(section: Section, key: str) -> bool:
    """Whether the key chooses the section's receiver, which then cannot be asked for the key's type."""
    if len(section) == 2 and section[0] == "evals":
        return key == "type"
    named = section == ("schedule",) or (section[:1] == ("data",) or section[:1] == ("evals",))
    return named and key == "name" and section[-1].endswith(("source", "schedule"))


def _receiver_types(receiver: Receiver) -> dict[str, Any]:
    types = _keyword_types(receiver.function)
    return {name: hint for name, hint in types.items() if name not in receiver.given} | dict(
        receiver.own
    )


def _optimizer_types(config: ml_collections.ConfigDict) -> dict[str, Any]:
    types = _keyword_types(make_optimizer)
    types.pop("schedule")
    chosen = TRANSFORMS.get(at(config, ("optimizer", "name")))
    return types | (_keyword_types(chosen) if chosen else {})


def _keyword_types(function: Callable) -> dict[str, Any]:
    target: Any = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    hints = typing.get_type_hints(target)
    parameters = inspect.signature(target).parameters
    return {n: hints.get(n, Any) for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _schema_type(default: Any) -> Any:
    if default is None or hasattr(default, "keys"):
        return Any
    return type(default)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, UnionType)


def _number(text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        return None


def _literal(text: str, options: Iterable[Any]) -> Any:
    """A Python literal; or words between commas, if a sequence is expected; or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    kinds = [typing.get_origin(option) or option for option in options]
    kinds = [kind for kind in kinds if isinstance(kind, type)]
    if any(issubclass(k, Iterable) and not issubclass(k, Mapping) for k in kinds):
        return tuple(part.strip() for part in text.split(","))
    return text


def _set(config: ml_collections.ConfigDict, path: Section, value: Any) -> None:
    for key in path[:-1]:
        if key not in config or config[key] is None:
            config[key] = ml_collections.ConfigDict()
        config = config[key]
    config[path[-1]] = value


def _remove(config: ml_collections.ConfigDict, path: Section) -> None:
    refuse_unknown(f"config.{path[0]}", [path[1]], config[path[0]])
    del config[path[0]][path[1]]


def _drop_foreign(config: ml_collections.ConfigDict, section: Section) -> None:
    """Drops arguments of the file that the newly named function does not take."""
    if section == ("optimizer",):
        valid: Iterable[str] = _optimizer_types(config)
    else:
        receiver = receiver_of(config, section)
        valid = [] if receiver is None else _receiver_types(receiver)
    values = at(config, section)
    for key in [key for key in values if key not in valid]:
        del values[key]


def _name(path: Section) -> str:
    return ".".join(("config", *path))
