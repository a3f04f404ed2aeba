"""All evaluators of a config, as one function of the parameters."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from bias_clip.core.json_object import to_json
from bias_clip.core.storage import write_whole, writing
from bias_clip.data.image import make_image_fn
from bias_clip.data.sources import make_source
from bias_clip.data.text import make_text_fn
from bias_clip.evals import Encode, EvalResult, make_encoder, make_evaluator
from bias_clip.evals.suites.evaluator import make_suite_parts
from bias_clip.models.two_towers import Model
from bias_clip.train.config_io import to_plain
from bias_clip.train.hosts.distributed import is_main
from bias_clip.train.sharding import batch_sharding, gather, replicated


def make_evaluation(
    evals: Mapping[str, Mapping[str, Any]],
    *,
    model: Model,
    mesh: Mesh,
    image: str,
    text: Mapping[str, Any],
    batch_size: int,
) -> Callable[[Any], dict[str, EvalResult]]:
    """Returns `evaluate(params) -> {name: EvalResult}`.

    Evaluators that read the same source share one object, so each image is embedded once. Each
    host prepares the images that its devices embed. Every host then computes the same scores from
    all embeddings.

    Args:
      evals: `{name: dict(type=..., source=..., **arguments of make_<type>)}`.
      model: from `make_model`.
      mesh: the batch is split over it.
      image: ops that turn an encoded image into an array.
      text: arguments of `make_text_fn`.
      batch_size: images or texts embedded at a time.
    """
    rows = batch_sharding(mesh)
    # Every host gets all embeddings, because each computes all scores.
    embed_image = jax.jit(
        lambda params, image: model.apply(params, image=image).zimg, out_shardings=replicated(mesh)
    )
    embed_text = jax.jit(
        lambda params, text: model.apply(params, text=text).ztxt, out_shardings=replicated(mesh)
    )
    encoder = make_encoder(
        embed_image=lambda params, x: embed_image(params, _placed(x, rows)),
        embed_text=lambda params, x: embed_text(params, _placed(x, rows)),
        image_fn=make_image_fn(image),
        text_fn=make_text_fn(**text),
        batch_size=batch_size,
        rows=_own_rows(batch_size, rows),
    )
    evaluators = make_evaluators(evals)

    def evaluate(params):
        # Once for all batches: otherwise each would gather the split parameters again.
        params = gather(params)
        logit = model.apply(params)  # no tower runs: only scale and bias
        encode = encoder(params, float(logit.scale), float(logit.bias))
        return {name: run(encode) for name, run in evaluators.items()}

    return evaluate


def flat_metrics(results: Mapping[str, EvalResult]) -> dict[str, float]:
    """Returns `{"eval/<evaluator>/<metric>": value}`, as `metrics.jsonl` holds them."""
    return {
        f"eval/{name}/{metric}": value
        for name, result in results.items()
        for metric, value in result.metrics.items()
    }


def write_results(directory: Path, step: int, results: Mapping[str, EvalResult]) -> None:
    """Writes `<evaluator>.json` with step, metrics and details for each result, on one process only.

    A metric without a number is null: JSON has no NaN.

    Raises:
      NotSavedError: a file cannot be written.
    """
    if not is_main():
        return
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    for name, result in results.items():
        record = {"step": step, "metrics": result.metrics, "details": result.details}
        # Whole or not at all: another program may be reading the results of a run at work.
        write_whole(directory / f"{name}.json", to_json(record))


def make_evaluators(
    evals: Mapping[str, Mapping[str, Any]],
) -> dict[str, Callable[[Encode], EvalResult]]:
    """Returns the evaluators of a config by name; those with equal sources share one source object.

    Raises:
      ValueError: two have the same name, or as `make_source`, `make_suite_parts` and `make_evaluator`.
    """
    sources: dict[str, Any] = {}

    def shared_source(arguments):
        # As JSON with sorted keys: equal arguments in another order are the same source.
        key = json.dumps(to_plain(arguments), sort_keys=True)
        if key not in sources:
            sources[key] = make_source(**arguments)
        return sources[key]

    made: dict[str, Callable[[Encode], EvalResult]] = {}

    def add(name, run):
        if name in made:
            raise ValueError(
                f"config.evals gives two evaluators the name {name!r}: a suite adds its parts to its own "
                "name; rename one."
            )
        made[name] = run

    for name in to_plain(evals):  # to_plain keeps the order of the config, and results follow it
        section = evals[name]
        if section["type"] == "suite":  # brings its own data; several parts are several evaluators
            given = {key: value for key, value in to_plain(section).items() if key != "type"}
            for part, run in make_suite_parts(**given).items():
                add(name if part == "all" else f"{name}_{part}", run)
            continue
        arguments = {key: value for key, value in section.items() if key not in ("type", "source")}
        for key in [key for key in arguments if key.endswith("source")]:
            arguments[key] = shared_source(arguments[key])
        source = shared_source(section["source"])
        add(name, make_evaluator(section["type"], source, **arguments))
    return made


def _placed(batch: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The batch over the devices of all hosts; this host supplies the rows of its own devices."""
    return jax.make_array_from_callback(batch.shape, sharding, lambda index: batch[index])


def _own_rows(batch_size: int, sharding: NamedSharding) -> list[int]:
    """Rows of a batch that belong to this host's devices, wherever the mesh puts those."""
    places = sharding.addressable_devices_indices_map((batch_size,)).values()
    # A set, because every device of a "tensor" group holds the same rows.
    return sorted({row for place in places if place for row in range(batch_size)[place[0]]})
