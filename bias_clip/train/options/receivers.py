"""Which function receives a section of the config; its signature gives the section's valid keys."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bias_clip.core.registry import refuse_unknown
from bias_clip.data.sources import SOURCES
from bias_clip.data.stream.balanced import make_plan
from bias_clip.data.stream.cells import make_cells_plan
from bias_clip.data.text import make_text_fn
from bias_clip.evals import EVALUATORS
from bias_clip.evals.suites.evaluator import make_suite_parts
from bias_clip.models.text import TextTransformer
from bias_clip.models.two_towers import make_model
from bias_clip.models.vit import ViT
from bias_clip.train.accumulate import make_gradient
from bias_clip.train.light import make_light
from bias_clip.train.objective import TERMS
from bias_clip.train.optim import make_optimizer
from bias_clip.train.optim.schedule import SCHEDULES, Duration
from bias_clip.train.sharding import make_mesh
from bias_clip.train.workdir.initial_state import load_params

Section = tuple[str, ...]
"""A path in the config: ("data", "source") is config.data.source."""


class Receiver(NamedTuple):
    """A function, and how a section becomes its arguments.

    Attributes:
      function: takes the section as keyword arguments.
      own: keys of the section that are not arguments of the function, with their types.
      given: arguments that the run supplies; the section must not set them.
    """

    function: Callable
    own: Mapping[str, Any]
    given: tuple[str, ...] = ()


_SHARED = ("remat", "scan", "attention")  # of both towers: config.model has them once
_FIXED: dict[Section, Receiver] = {
    ("data", "text"): Receiver(make_text_fn, {}),
    ("data", "balance"): Receiver(make_plan, {"switch": Duration | None}, ("switch", "run_seed")),
    ("data", "cells"): Receiver(make_cells_plan, {}, ("batch_size", "seed")),
    ("model",): Receiver(make_model, {}),
    ("model", "image"): Receiver(ViT, {}, _SHARED),
    ("model", "text"): Receiver(TextTransformer, {}, _SHARED),
    ("optimizer",): Receiver(make_optimizer, {}, ("schedule",)),
    ("mesh",): Receiver(make_mesh, {}, ("devices",)),
    ("accumulation",): Receiver(
        make_gradient, {}, ("apply", "objective", "mesh", "layout", "frozen")
    ),
    ("light",): Receiver(
        make_light, {"until": Duration}, ("arguments", "model", "mesh", "ops", "seed")
    ),
    ("init_from",): Receiver(load_params, {}, ("abstract_params",)),
}


def receiver_of(config: Any, section: Section) -> Receiver | None:
    """Returns the receiver of `section`; None if the schema itself lists its keys.

    Args:
      config: its names (`name`, `type`) choose among sources, schedules and evaluators.
      section: a path.

    Raises:
      ValueError: the section has no name, or an unknown one; lists the valid ones.
    """
    if section in _FIXED:
        return _FIXED[section]
    match section:
        case ("schedule",):
            return _chosen(config, section, "name", SCHEDULES, given=("total_steps",))
        case ("data", "source"):
            return _chosen(config, section, "name", SOURCES)
        case ("evals", _) if is_suite(at(config, section)):
            return Receiver(make_suite_parts, {"type": str})
        case ("evals", _):
            return _chosen(config, section, "type", EVALUATORS | {"suite": make_suite_parts})
        case ("evals", _, key) if key.endswith("source"):
            return _chosen(config, section, "name", SOURCES)
        case ("objective", name):
            refuse_unknown("config.objective", [name], TERMS)
            return Receiver(TERMS[name], {"coef": float}, ("axis_name",))
    return None


def is_suite(section: Any) -> bool:
    """Whether an entry of `config.evals` is a published suite, which brings its own data."""
    return hasattr(section, "keys") and "type" in section and section["type"] == "suite"


def _chosen(
    config: Any, section: Section, key: str, table: Mapping[str, Callable], given: Section = ()
) -> Receiver:
    where, values = ".".join(("config", *section)), at(config, section)
    if values is None:  # a section that an override has yet to make
        values = {}
    if not hasattr(values, "keys"):
        raise ValueError(f"{where} is {values!r}; expected a dict of arguments.")
    if key not in values:
        raise ValueError(f"{where} has no {key!r}; expected one of {sorted(table)}.")
    refuse_unknown(f"{where}.{key}", [values[key]], table)
    own = {key: str} if key == "name" else {key: str, "source": Mapping}
    return Receiver(table[values[key]], own, given)


def at(config: Any, section: Section) -> Any:
    """Returns the value at a path of the config, or None if there is none."""
    for key in section:
        if not hasattr(config, "keys") or key not in config:
            return None
        config = config[key]
    return config
