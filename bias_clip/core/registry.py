"""Calls by name: a table of functions, a name, and arguments checked against the signature.

The names and arguments come from configs, op-strings and command lines. So anything that is misspelt,
missing or of another type raises a ValueError that lists the valid choices and the nearest spelling.
Parameters before `*` are the caller's to give; those after it are arguments that a config may set.
"""

import contextlib
import difflib
import functools
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

_WIDER = {int: numbers.Integral, float: numbers.Real}  # NumPy's numbers are not Python's
_MAPPINGS = {dict, Mapping}
_SEQUENCES = {list, tuple, Sequence}
_SHOWN = 200  # characters of a wrong value in a message


def call_by_name(
    what: str, table: Mapping[str, Callable], name: str, arguments: Mapping[str, Any], *given: Any
) -> Any:
    """Checks the name and the arguments, then returns `table[name](*given, **arguments)`.

    Args:
      what: the kind of entry in the table, such as "source", for the message.
      table: functions by name.
      name: the requested name.
      arguments: keyword arguments, checked by `check_arguments`.
      *given: values of the parameters before `*`.

    Raises:
      ValueError: an unknown name, or as `check_arguments` or the function itself.
    """
    function = look_up(what, name, table)
    check_arguments(f"{what} {name!r}", function, arguments)
    return function(*given, **arguments)


def look_up(what: str, name: Any, table: Mapping[str, Any]) -> Any:
    """Returns `table[name]`.

    Raises:
      ValueError: an unknown name; the message lists all names and the nearest spelling.
    """
    if name not in table:
        hint = nearest(name, table)
        raise ValueError(f"unknown {what} {name!r}; expected one of {sorted(table)}.{hint}")
    return table[name]


def check_arguments(
    where: str, function: Callable, arguments: Mapping[str, Any], *, given: Iterable[str] = ()
) -> None:
    """Raises ValueError unless the signature of `function` allows `function(**arguments)`.

    Args:
      where: name of the section, for the message.
      function: a function, a class or a `functools.partial`.
      arguments: a dict, or an object with `keys`, such as a section of a config.
      given: keyword parameters that the caller supplies.
    """
    if not (hasattr(arguments, "keys") and hasattr(arguments, "__getitem__")):
        raise ValueError(f"{where} is {arguments!r}; expected a dict of arguments.")
    parameters = _parameters(function).values()
    free = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in given}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        refuse_unknown(where, arguments, free)
    required = [name for name, p in free.items() if p.default is p.empty]
    missing = [name for name in required if name not in arguments]
    if missing:
        raise ValueError(f"{where} lacks {missing}; {_plain(function).__name__} needs {required}.")
    _check_types(where, function, {name: arguments[name] for name in arguments if name in free})


def name_arguments(
    where: str,
    function: Callable,
    args: Iterable[Any],
    kwargs: Mapping[str, Any],
    *,
    given: Iterable[str] = (),
) -> dict[str, Any]:
    """Returns the arguments of a call by keyword, with defaults for the omitted ones.

    Args:
      where: the call, for the message.
      function: the called function.
      args, kwargs: as the user wrote them, `f(48, method="area")`.
      given: parameters that the caller supplies, in any position.

    Raises:
      ValueError: an unknown or missing argument, one too many, or one of another type.
    """
    parameters = [p for p in _parameters(function).values() if p.name not in given]
    refuse_unknown(where, kwargs, [p.name for p in parameters])
    try:
        bound = inspect.Signature(parameters).bind(*args, **kwargs)
    except TypeError as error:
        valid = [p.name for p in parameters]
        raise ValueError(f"{where}: {error}; its arguments are {valid}.") from error
    # Before the defaults: those need no check, and may be None for a type without None.
    _check_types(where, function, bound.arguments)
    bound.apply_defaults()
    return dict(bound.arguments)


def refuse_unknown(where: str, got: Iterable[str], valid: Iterable[str]) -> None:
    """Raises ValueError for the first of `got` that is not in `valid`, with the nearest spelling."""
    valid = sorted(valid)
    for name in got:
        if name not in valid:
            hint = nearest(name, valid)
            raise ValueError(f"{where} has {name!r}; expected one of {valid}.{hint}")


def nearest(name: Any, valid: Iterable[str]) -> str:
    """Returns " Did you mean 'split'?" to append to a message, or "" if no name is similar."""
    near = difflib.get_close_matches(str(name), list(valid), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def argument_names(function: Callable) -> list[str]:
    """Returns the names of the parameters after `*`: the arguments that a config may set."""
    return [p.name for p in _parameters(function).values() if p.kind is p.KEYWORD_ONLY]


def check_type(where: str, value: Any, hint: Any) -> None:
    """Raises ValueError for a value of another type, as far as the hint names Python's own types.

    An integer is accepted as a float; a boolean is accepted as neither, and NaN is not a number. Lists
    and tuples stand for each other, because JSON has only one of them; a str is not a sequence of
    letters. A hint with any other type in it, such as an array or a function, accepts everything.
    """
    if not _fits(value, hint):
        shown = f"{value!r} ({type(value).__name__})"
        raise ValueError(f"{where} is {shown[:_SHOWN]}; expected {_hint_name(hint)}.")


@contextlib.contextmanager
def named(key: str) -> Iterator[None]:
    """Puts the key in front of the message of a ValueError from within, unless the message has it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error) if key in str(error) else f"{key}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if hint in _WIDER:
        # Python's bool is an integer: `batch_size=True` would be a batch of one.
        number = isinstance(value, _WIDER[hint]) and not isinstance(value, bool)
        return number and not (isinstance(value, float) and math.isnan(value))
    if hint in (str, bool, type(None)):
        return isinstance(value, hint)
    kind = origin or hint
    if kind in _MAPPINGS:
        return hasattr(value, "keys") and hasattr(value, "__getitem__")
    if kind not in _SEQUENCES:
        return True
    # A string is a sequence of letters, and a mapping has a length: neither is meant by a list.
    if isinstance(value, str | bytes) or hasattr(value, "keys") or not hasattr(value, "__len__"):
        return False
    if kind is not tuple or inner[1:] == (...,):
        return not inner or all(_fits(part, inner[0]) for part in value)
    return not inner or (len(value) == len(inner) and all(map(_fits, value, inner)))


def _hint_name(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(sorted(map(_hint_name, typing.get_args(hint))))
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint.__name__
    return re.sub(r"\b(typing|collections\.abc)\.", "", str(hint))


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(_body(function)).parameters)


def _check_types(where: str, function: Callable, arguments: Mapping[str, Any]) -> None:
    # Resolves annotations that are text, as under `from __future__ import annotations`.
    hints = typing.get_type_hints(_body(_plain(function)))
    for name, value in arguments.items():
        check_type(f"{where}.{name}", value, hints.get(name, Any))


def _plain(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _body(function: Any) -> Any:
    # A metaclass may hide the parameters of a class, as flax's does: its __init__ has them.
    return inspect.getattr_static(function, "__init__") if inspect.isclass(function) else function
