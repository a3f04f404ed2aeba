"""Is this config one that the code can run? Answered before any data is read or compiled."""

import json
import runpy
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from bias_clip.core.registry import check_arguments, check_type, refuse_unknown
from bias_clip.data.image import make_image_fn
from bias_clip.data.sources import SOURCES
from bias_clip.data.stream.balanced import STAGES, USES, make_plan
from bias_clip.data.stream.cells import CELLS, SMALL, make_cells_plan
from bias_clip.data.stream.columns import KEYS, WEIGHTS
from bias_clip.data.text import make_text_fn, vocab_size
from bias_clip.evals import EVALUATORS
from bias_clip.models.two_towers import make_model
from bias_clip.stages.mcl_plan import MODES, SEQUENCES
from bias_clip.train.accumulate import make_gradient
from bias_clip.train.optim.schedule import SCHEDULES, parse_duration
from bias_clip.train.sharding import make_mesh
from bias_clip.train.terms import TERMS, needed_columns
from bias_clip.train.workdir.initial_state import load_params


def validate(config: ml_collections.ConfigDict, schema: ml_collections.ConfigDict) -> None:
    """Checks every section of `config` against the function that will receive it.

    Args:
      config: what the run was given.
      schema: `configs/default.py`'s config, which holds every key there is.

    Raises:
      ValueError: for a key that is unknown, missing or of another type, an unknown name (loss,
        source, optimiser, evaluator, op) or argument, and for sections that contradict each other;
        says what was got and what is valid.
    """
    _check_keys("config", config, schema)
    for section in ("data", "evaluation", "checkpoint"):
        _check_keys(f"config.{section}", config[section], schema[section])
    _check_choice("config.data.source", config.data.source, SOURCES)
    make_image_fn(config.data.image)
    make_image_fn(config.evaluation.image)
    check_arguments("config.data.text", make_text_fn, config.data.text)
    check_arguments("config.model", make_model, config.model)
    _check_choice("config.schedule", config.schedule, SCHEDULES, given=("total_steps",))
    check_arguments("config.mesh", make_mesh, config.mesh, given=("devices",))
    given = ("apply", "objective", "mesh", "layout")
    check_arguments("config.accumulation", make_gradient, config.accumulation, given=given)
    if config.guards is not None:
        _check_keys("config.guards", config.guards, schema.guards)
    if config.init_from is not None:
        check_arguments(
            "config.init_from", load_params, config.init_from, given=("abstract_params",)
        )
    refuse_unknown("config.data.columns", config.data.columns, KEYS)
    _check_objective(config.objective, _batch_columns(config.data))
    for name, arguments in config.evals.items():
        _check_evaluator(f"config.evals.{name}", arguments)
    _check_agreement(config)


def load_config(path: Path, *arguments: str) -> ml_collections.ConfigDict:
    """Returns `get_config(*arguments)` of a config file, which may import from its folder's name.

    Raises:
      ValueError: if there is no such file.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise ValueError(
            f"there is no config file {path}; the schema, configs/default.py, must lie beside "
            "every config."
        )
    root = str(path.parent.parent)
    sys.path.insert(0, root)
    try:
        return runpy.run_path(str(path))["get_config"](*arguments)
    finally:
        sys.path.remove(root)


def to_plain(value: Any) -> Any:
    """Returns a config, or part of one, as dicts and lists that JSON can hold.

    Keys keep the order of the config file: the report shows evaluators in it.
    """
    if isinstance(value, ml_collections.ConfigDict):
        return json.loads(value.to_json())  # items() would sort the keys
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(value: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the config that `to_plain` was given."""
    return ml_collections.ConfigDict(json.loads(json.dumps(value)))


def _check_keys(where: str, config: Mapping, schema: Mapping) -> None:
    refuse_unknown(where, config, schema)
    missing = [key for key in schema if key not in config]
    if missing:
        raise ValueError(f"{where} lacks {missing}; start from configs/default.py.")
    for key, default in schema.items():
        if default is not None and not isinstance(default, Mapping | ml_collections.ConfigDict):
            kind = float if isinstance(default, float) else type(default)
            expected = kind | list if kind is tuple else kind
            check_type(f"{where}.{key}", config[key], expected)


def _check_choice(where: str, section: Mapping, table: Mapping, given: Iterable[str] = ()) -> None:
    if "name" not in section:
        raise ValueError(f"{where} has no 'name'; expected one of {sorted(table)}.")
    refuse_unknown(f"{where}.name", [section["name"]], table)
    rest = {key: value for key, value in section.items() if key != "name"}
    check_arguments(where, table[section["name"]], rest, given=given)


def _batch_columns(data: ml_collections.ConfigDict) -> tuple[str, ...]:
    return (*data.columns, *_check_balance(data), *_check_cells(data))


def _check_cells(data: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the keys that training on cells gives the batches."""
    cells, where = data.cells, "config.data.cells"
    if cells is None:
        return ()
    if CELLS in data.columns:
        raise ValueError(f"{where} and config.data.columns.{CELLS} are both set; give one of them.")
    if data.balance is not None:
        raise ValueError(
            f"{where} and config.data.balance are both set, which do not compose: a record that is "
            "drawn twice would be a negative of itself in a batch of its cell. Give one of them; "
            "weights of the loss can come from config.data.columns.weights."
        )
    check_arguments(where, make_cells_plan, cells, given=("batch_size", "seed"))
    for name, valid in (("mode", MODES), ("small", (*SMALL, None)), ("sequence", SEQUENCES)):
        if name in cells and cells[name] not in valid:
            raise ValueError(f"{where}.{name} is {cells[name]!r}; expected one of {valid}.")
    return (CELLS,)


def _check_balance(data: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the keys that balancing gives the batches."""
    balance, where = data.balance, "config.data.balance"
    if balance is None:
        return ()
    if WEIGHTS in data.columns:
        raise ValueError(
            f"{where} and config.data.columns.{WEIGHTS} are both set; balance by one of them alone."
        )
    rest = {key: value for key, value in balance.items() if key != "switch"}
    check_arguments(where, make_plan, rest, given=("switch",))
    refuse_unknown(f"{where}.use", [balance.use], USES)
    if "first" in balance:
        refuse_unknown(f"{where}.first", [balance.first], STAGES)
    if "switch" in balance and balance.switch is not None:
        parse_duration(balance.switch, total_steps=1, batch_size=1, examples_per_epoch=1)
    return (WEIGHTS,) if balance.use == "weight" else ()


def _check_objective(objective: Mapping, columns: Iterable[str]) -> None:
    if not objective:
        raise ValueError(f"config.objective is empty; expected at least one of {sorted(TERMS)}.")
    refuse_unknown("config.objective", objective, TERMS)
    for name, arguments in objective.items():
        where = f"config.objective.{name}"
        if "coef" not in arguments:
            raise ValueError(f"{where} lacks 'coef', the factor of this term in the sum.")
        rest = {key: value for key, value in arguments.items() if key != "coef"}
        check_arguments(where, TERMS[name], rest, given=("axis_name",))
        missing = [key for key in needed_columns(name, rest) if key not in columns]
        if missing:
            raise ValueError(
                f"{where} needs {missing} in every batch, but config.data.columns has "
                f"{sorted(columns)}; say which attribute of the records they are, such as "
                f"config.data.columns = dict({missing[0]}='...')."
            )


def _check_evaluator(where: str, arguments: Mapping) -> None:
    for key in ("type", "source"):
        if key not in arguments:
            raise ValueError(f"{where} lacks {key!r}; types are {sorted(EVALUATORS)}.")
    refuse_unknown(f"{where}.type", [arguments["type"]], EVALUATORS)
    rest = {key: value for key, value in arguments.items() if key not in ("type", "source")}
    check_arguments(where, EVALUATORS[arguments["type"]], rest)
    for key, value in arguments.items():
        if key.endswith("source"):
            _check_choice(f"{where}.{key}", value, SOURCES)


def _check_agreement(config: ml_collections.ConfigDict) -> None:
    if config.batch_size < 1:
        raise ValueError(f"config.batch_size is {config.batch_size}; expected at least 1.")
    length, expected = config.data.text.length, config.model.text.length
    if length != expected:
        raise ValueError(
            f"config.data.text.length is {length}, config.model.text.length {expected}; "
            "the text tower sees what the tokeniser makes: set both to the same."
        )
    pieces = vocab_size(config.data.text.tokenizer)
    if config.model.text.vocab_size < pieces:
        raise ValueError(
            f"config.model.text.vocab_size is {config.model.text.vocab_size}, but the tokenizer "
            f"{config.data.text.tokenizer!r} has {pieces} pieces; set vocab_size to at least that."
        )
