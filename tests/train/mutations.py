"""Configs with one or two things changed at random: what a tired person or a script could write."""

import collections
import random
from typing import Any

import ml_collections

from bias_clip.core.registry import argument_names
from bias_clip.data.image import OPS
from bias_clip.evals import EVALUATORS
from bias_clip.train.objective import TERMS
from bias_clip.train.optim.schedule import SCHEDULES
from bias_clip.train.optim.transforms import TRANSFORMS
from tests.train.tiny import tiny_config

NUMBERS = (0, 1, -1, 2, 3, 7, 16, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.0, 0.5, 1.0, -0.1, 1.98)
NUMBERS += (1e-30, 1e30, 1e300, float("nan"), float("inf"), -float("inf"), True, False)
WORDS = (
    "",
    "x",
    "16",
    "none",
    "None",
    "adamw",
    "(",
    "a{9999999999}",
    "10%",
    "0 steps",
    "1e400 steps",
)
WORDS += ("-1 steps", "999999999999999999999 epochs", "\udcff", "decode", "*", "decode|resize(16)")
OTHERS = (None, (), (1, 2), ("a",), (("(", "fsdp"),), ((".*", 3),), {}, {"a": 1}, [[]], b"x")
_REQUIRED: dict[str, dict[str, Any]] = collections.defaultdict(dict)
_REQUIRED["supcon"] = {"temperature": 0.1}
_REQUIRED["eps_supcon"] = _REQUIRED["eps_supinfonce"] = {"temperature": 0.1, "epsilon": 0.1}
VALUES = (*NUMBERS, *WORDS, *OTHERS)
LITERALS = ("0", "-1", "1.5", "nan", "1e999", "None", "'x'", "(1,2)", "99999999999999999999", "()")


def bases() -> list[dict[str, Any]]:
    """Small valid configs that have, between them, every term, transform, schedule and evaluator."""
    configs = [tiny_config() for _ in range(4)]
    for i, name in enumerate(TERMS):
        other = tiny_config()
        other.objective = {name: {"coef": 1.0, **_REQUIRED[name]}}
        other.data.columns = {"labels": "name", "bias_labels": "name", "prior": "name"}
        other.evaluation.every = ("4 steps", "1 epochs", "50%")[i % 3]
        configs.append(other)
    for name in TRANSFORMS:
        configs.append(tiny_config())
        configs[-1].optimizer = {"name": name, "lr": 1e-3}
    for name in SCHEDULES:
        configs.append(tiny_config())
        configs[-1].schedule = {"name": name, "warmup": "10%"}
    evals = tiny_config()
    evals.accumulation = {"mode": "cached", "steps": 2}
    evals.ema_decay = 0.9
    evals.data.balance = {"table": "weights.parquet", "use": "thin", "switch": "50%"}
    return [config.to_dict() for config in (*configs, evals)]


def mutate(config: dict[str, Any], rng: random.Random) -> str:
    """Changes the config in place; returns the dotted key that changed."""
    if rng.random() < 0.15:
        return _spoil_ops(config, rng)
    keys = list(_paths(config))
    *path, last = rng.choice(keys)
    section = config
    for key in path:
        section = section[key]
    kind = rng.random()
    if kind < 0.08:
        del section[last]
    elif kind < 0.2:
        last = rng.choice(["nme", *_arguments(config, path)])
        section[last] = rng.choice(VALUES)
    else:
        section[last] = rng.choice(VALUES)
    return ".".join((*path, last))


def as_config(plain: dict[str, Any]) -> ml_collections.ConfigDict:
    """The config; its own type checks do not apply when a file makes it."""
    return ml_collections.ConfigDict(plain)


def _paths(config: dict[str, Any], above: tuple[str, ...] = ()):
    for key, value in config.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _paths(value, (*above, key))


def _arguments(config: dict[str, Any], path: list[str]) -> list[str]:
    """Names that a section takes, so that numbers which have defaults are changed, too."""
    tables = {"optimizer": TRANSFORMS, "schedule": SCHEDULES}
    match path:
        case ["optimizer" | "schedule" as section]:
            name = config[section].get("name") if isinstance(config[section], dict) else None
            functions = [tables[section].get(name)] if isinstance(name, str) else []
        case ["objective", name]:
            functions = [TERMS.get(name)]
        case ["evals", _]:
            functions = [EVALUATORS["zeroshot"]]
        case ["model", "image"]:
            return [
                "out_dim",
                "width",
                "depth",
                "mlp_dim",
                "num_heads",
                "epsilon",
                "posemb",
                "stem",
            ]
        case ["model", "text"]:
            return ["pool", "width", "depth", "mlp_dim", "num_heads", "epsilon", "mask", "eos_id"]
        case _:
            functions = []
    return [name for function in functions if function for name in argument_names(function)]


def _spoil_ops(config: dict[str, Any], rng: random.Random) -> str:
    """An op-string with an operation of random arguments."""
    key = rng.choice(["data", "evaluation"])
    if not isinstance(config.get(key), dict):  # spoilt by the change before
        config[key] = {}
    count = rng.randrange(3)
    op = f"{rng.choice(sorted(OPS))}({','.join(rng.choice(LITERALS) for _ in range(count))})"
    form = rng.choice(
        ["decode|{}|resize(16)|value_range(-1,1)", "decode|resize(16)|{}", "{}", "{}|{}"]
    )
    config[key]["image"] = form.replace("{}", op)
    return f"{key}.image"
