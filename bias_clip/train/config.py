"""Is this config one that the code can run? Answered before any data is read or compiled."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import ml_collections

from bias_clip.balancing.balanced_draw import DRAWS
from bias_clip.core.registry import check_arguments, check_type, named, refuse_unknown
from bias_clip.data.stream.balanced import PHASES, USES
from bias_clip.data.stream.batch import ATTRIBUTES, CELLS, WEIGHTS, attributes_of
from bias_clip.data.stream.cells import SMALL
from bias_clip.data.text import vocab_size
from bias_clip.stages.mcl_plan import MODES, SEQUENCES
from bias_clip.train.display.sinks import SINKS
from bias_clip.train.objective import TERMS, needed_columns
from bias_clip.train.optim.schedule import Duration, parse_duration
from bias_clip.train.options.ranges import check_ranges
from bias_clip.train.options.receivers import Section, at, is_suite, receiver_of
from bias_clip.train.options.schema import RENAMED, default_config

_OWN_KEYS = ("data", "evaluation", "checkpoint")  # sections whose keys the schema lists
_REQUIRED = (
    ("data", "source"),
    ("data", "text"),
    ("model",),
    ("model", "image"),
    ("model", "text"),
    ("optimizer",),
    ("schedule",),
    ("mesh",),
)
_EVALUATOR_NAME = re.compile(r"[\w-]{1,100}")
_OPTIONAL = (("data", "balance"), ("data", "cells"), ("init_from",), ("light",))
_OR_NONE: dict[str, Any] = {  # keys whose default does not say their type
    "config.ema_decay": float | None,
    "config.keep_every": Duration | None,
    "config.stall_seconds": float | None,
    "config.guards.max_grad_norm": float | None,
    "config.guards.max_consecutive": int | None,
    "config.data.columns": Mapping[str, str],
    "config.sinks": Sequence[str],
}


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every section of `config` against the function that will receive it.

    Args:
      config: the run's config; the schema, `default_config`, lists all keys.

    Raises:
      ValueError: for a key that is unknown, renamed, missing or of another type; for an unknown
        argument or name of a loss, source, optimiser, evaluator or op; and for sections that
        contradict each other. The message says what was got and what is valid.
    """
    schema = default_config()
    # First: a renamed key would otherwise be refused as unknown, without its new name.
    refuse_renamed(_leaves(config))
    _check_keys("config", config, schema)
    for name in _OWN_KEYS:
        _check_keys(f"config.{name}", config[name], schema[name])
    if config.guards is not None:
        check_type("config.guards", config.guards, Mapping)
        _check_keys("config.guards", config.guards, schema.guards)
    present = (path for path in _OPTIONAL if at(config, path) is not None)
    for path in (*_REQUIRED, ("accumulation",), *present):
        _check_section(config, path)
    refuse_unknown("config.data.columns", config.data.columns, ATTRIBUTES)
    refuse_unknown("config.sinks", config.sinks, SINKS)
    if config.light is not None and "until" not in config.light:
        raise ValueError("config.light lacks 'until', the duration of the light steps; set it.")
    _check_cells(config.data)
    _check_balance(config.data)
    _check_objective(config)
    for name in config.evals:
        _check_evaluator(config, ("evals", name))
    # Last, because they compare sections that must each be right by now.
    _check_agreement(config)
    check_ranges(config)


def refuse_renamed(keys: Iterable[str]) -> None:
    """Raises ValueError for the first of `keys` (such as "objective.sigmoid.coef") that has a new name."""
    for key in keys:
        for old, new in RENAMED.items():
            if fnmatch(key, old):
                section = key.rpartition(".")[0]
                raise ValueError(
                    f"config.{key} is now called {new!r}: write config.{section}.{new}."
                )


def _leaves(config: Any, where: str = "") -> Iterable[str]:
    if not isinstance(config, Mapping | ml_collections.ConfigDict):
        yield where
        return
    for key, value in config.items():
        yield from _leaves(value, f"{where}.{key}" if where else str(key))


def _check_keys(where: str, config: Mapping, schema: Mapping) -> None:
    refuse_unknown(where, config, schema)
    missing = [key for key in schema if key not in config]
    if missing:
        raise ValueError(
            f"{where} lacks {missing}; start from default_config() of bias_clip.train.options.schema."
        )
    for key, default in schema.items():
        name, hint = f"{where}.{key}", type(default)
        if isinstance(default, Mapping | ml_collections.ConfigDict):
            hint = Mapping
        if name in _OR_NONE or default is not None:
            check_type(name, config[key], _OR_NONE.get(name, hint))


def _check_section(config: ml_collections.ConfigDict, path: Section) -> None:
    receiver, section, where = receiver_of(config, path), at(config, path), _name(path)
    if not isinstance(section, Mapping | ml_collections.ConfigDict):
        raise ValueError(f"{where} is {section!r}; expected a dict of arguments.")
    assert receiver is not None
    rest = {key: value for key, value in section.items() if key not in receiver.own}
    check_arguments(where, receiver.function, rest, given=receiver.given)
    for key, hint in receiver.own.items():
        if key in section:
            check_type(f"{where}.{key}", section[key], hint)


def _check_cells(data: ml_collections.ConfigDict) -> None:
    cells, where = data.cells, "config.data.cells"
    if cells is None:
        return
    if CELLS in data.columns:
        raise ValueError(f"{where} and config.data.columns.{CELLS} are both set; give one of them.")
    if data.balance is not None:
        raise ValueError(
            f"{where} and config.data.balance are both set, which do not compose: a record that is "
            "drawn twice would be a negative of itself in a batch of its cell. Set one of them; "
            "weights of the loss can come from config.data.columns.weights."
        )
    for name, valid in (("mode", MODES), ("small", (*SMALL, None)), ("sequence", SEQUENCES)):
        if name in cells and cells[name] not in valid:
            raise ValueError(f"{where}.{name} is {cells[name]!r}; expected one of {valid}.")


def _check_balance(data: ml_collections.ConfigDict) -> None:
    balance, where = data.balance, "config.data.balance"
    if balance is None:
        return
    if WEIGHTS in data.columns:
        raise ValueError(
            f"{where} and config.data.columns.{WEIGHTS} are both set; balance by only one of them."
        )
    refuse_unknown(f"{where}.use", [balance.use], USES)
    if "first" in balance:
        refuse_unknown(f"{where}.first", [balance.first], PHASES)
    if "draw" in balance and balance.draw is not None:
        refuse_unknown(f"{where}.draw", [balance.draw], DRAWS)
    if "switch" in balance and balance.switch is not None:
        with named("config.data.balance.switch"):
            # Only whether it can be read; how long it is, is known with the data.
            parse_duration(balance.switch, total_steps=1, batch_size=1, examples_per_epoch=1)


def _check_objective(config: ml_collections.ConfigDict) -> None:
    data = config.data
    columns = attributes_of(columns=data.columns, balance=data.balance, cells=data.cells)
    if not config.objective:
        raise ValueError(f"config.objective is empty; expected at least one of {sorted(TERMS)}.")
    refuse_unknown("config.objective", config.objective, TERMS)
    for name, arguments in config.objective.items():
        where = f"config.objective.{name}"
        check_type(where, arguments, Mapping)
        if "coef" not in arguments:
            raise ValueError(f"{where} lacks 'coef', the factor of this term in the sum; set it.")
        _check_section(config, ("objective", name))
        missing = [key for key in needed_columns(name, arguments) if key not in columns]
        if missing:
            raise ValueError(
                f"{where} needs {missing} in every batch, but config.data.columns has "
                f"{sorted(columns)}; name the attribute of the records that holds each, such as "
                f"config.data.columns = dict({missing[0]}='...')."
            )


def _check_evaluator(config: ml_collections.ConfigDict, path: Section) -> None:
    section = at(config, path)
    if not _EVALUATOR_NAME.fullmatch(str(path[-1])):
        raise ValueError(
            f"config.evals has the name {path[-1]!r}, which becomes that of a file and a part of metrics' "
            "names; expected letters, digits, '_' and '-'."
        )
    receiver_of(config, path)  # first: without a type nothing can be checked
    if "source" not in section and not is_suite(section):
        raise ValueError(f"{_name(path)} lacks 'source', the data that it evaluates on.")
    _check_section(config, path)
    for key in section:
        if key.endswith("source"):
            _check_section(config, (*path, key))


def _check_agreement(config: ml_collections.ConfigDict) -> None:
    if not 1 <= config.batch_size < 2**31:  # rows are counted in int32
        raise ValueError(
            f"config.batch_size is {config.batch_size}; expected at least 1, and less than 2^31."
        )
    if "length" not in config.model.text:
        raise ValueError("config.model.text lacks 'length'; set it to config.data.text.length.")
    length, expected = config.data.text.length, config.model.text.length
    if length != expected:
        raise ValueError(
            f"config.data.text.length is {length}, config.model.text.length {expected}; "
            "the text tower takes what the tokeniser makes: set both to the same value."
        )
    pieces = vocab_size(config.data.text.tokenizer)
    # A larger vocabulary only wastes rows; a smaller one would give tokens without a row.
    if config.model.text.vocab_size < pieces:
        raise ValueError(
            f"config.model.text.vocab_size is {config.model.text.vocab_size}, but the tokenizer "
            f"{config.data.text.tokenizer!r} has {pieces} pieces; set vocab_size to at least that."
        )


def _name(path: Section) -> str:
    return ".".join(("config", *path))
