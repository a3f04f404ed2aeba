"""Calls by name: a table of functions, a name, and arguments checked against the signature.

The names and arguments come from configs, op-strings and command lines. So anything that is misspelt,
missing or of another type raises a ValueError that lists the valid choices and the nearest spelling.
Parameters before `*` are the caller's to give; those after it are arguments that a config may set.
"""

import difflib
import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_WIDER = {int: numbers.Integral, float: numbers.Real}  # NumPy's numbers are not Python's
_PLAIN = {int, float, str, bool, type(None), tuple, list}


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
    """Raises ValueError for a value of another type, if the hint has only Python's plain types.

    An integer is accepted as a float; a boolean is accepted as neither.
    """
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if is_union else (hint,)
    if not set(options) <= _PLAIN:
        return
    wide = tuple(_WIDER.get(option, option) for option in options)
    wrong_bool = isinstance(value, bool) and bool not in options
    if wrong_bool or not isinstance(value, wide):
        names = " or ".join(sorted(option.__name__ for option in options))
        raise ValueError(f"{where} is {value!r} ({type(value).__name__}); expected {names}.")


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(_body(function)).parameters)


def _check_types(where: str, function: Callable, arguments: Mapping[str, Any]) -> None:
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
