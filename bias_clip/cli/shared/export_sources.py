"""What `bias-clip export` writes: a run or a published checkpoint, with what is known of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bias_clip.core.formatting import format_unit, spaced
from bias_clip.evals.headlines import against, describe, headline_metrics
from bias_clip.evals.results import EvalResult
from bias_clip.pretrained import load_pretrained
from bias_clip.pretrained.exports.export_card import Facts, Measured
from bias_clip.pretrained.exports.export_folder import Exported
from bias_clip.report.run_read import read_evals
from bias_clip.train.config_io import to_plain
from bias_clip.train.sharding import gather
from bias_clip.train.workdir.load_run import load_run

_FAMILIES = {"clip": "CLIP", "siglip": "SigLIP"}
_BIAS = ("bias", "data")  # topics of evaluators; "health" is nobody's quality


def exported_run(workdir: str, step: int | None = None) -> Exported:
    """A run's checkpoint, with the data, the balancing and the evaluations that its workdir states.

    Raises:
      ValueError: as `load_run`.
    """
    run = load_run(workdir, step)
    config = to_plain(run.config)
    quality, bias = _measured(read_evals(run.workdir), run.step)
    origin = [f"Step {run.step:,} of a run of bias_clip."]
    if config["init_from"]:
        origin.append(f"It started from `{_shown(str(config['init_from']['path']))}`.")
    facts = Facts(
        name=run.workdir.name,
        origin=tuple(origin),
        data=(
            f"Source: {_arguments(config['data']['source'])}.",
            f"Planned length: {config['total']}, with {config['batch_size']:,} examples per step. "
            f"Loss: {', '.join(config['objective'])}.",
        ),
        balancing=(_balancing(config),),
        quality=quality,
        bias=bias,
    )
    return Exported(
        # The files hold whole arrays: the parts of all devices are put together.
        params=gather(run.params),
        config=config["model"],
        images=config["evaluation"]["image"],
        texts=config["data"]["text"],
        facts=facts,
    )


def exported_checkpoint(path: str, *, tokenizer: str | None = None) -> Exported:
    """A published checkpoint, as `load_pretrained` reads it, `tokenizer` too.

    Raises:
      ValueError: as `load_pretrained`.
    """
    loaded = load_pretrained(path, tokenizer=tokenizer)
    files = [name for name in loaded.origin["files"] if name]
    facts = Facts(
        name=path.rstrip("/").rsplit("/", 1)[-1],
        origin=(
            f"Converted, not trained further, from `{_shown(path)}`: a {_FAMILIES[loaded.family]} in the layout "
            f"{loaded.layout} ({', '.join(files)}).",
        ),
        notes=loaded.notes,
    )
    return Exported(
        params=loaded.params,
        config=loaded.config,
        images=None if loaded.preprocess is None else loaded.preprocess.ops,
        texts=None if loaded.tokenizer is None else loaded.tokenizer.rules,
        facts=facts,
    )


def _shown(path: str) -> str:
    """A card is public: of a path on a disk, only the last part."""
    return path if path.startswith("hf://") else Path(path).name


def _balancing(config: Mapping[str, Any]) -> str:
    balance, cells = config["data"]["balance"], config["data"]["cells"]
    if balance:
        return f"Balanced by weights of M4: {_arguments(balance)}."
    if cells:
        return f"Not balanced. Batches come from one cell of a clustering: {_arguments(cells)}."
    return "Not balanced: each example counts the same."


def _arguments(call: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in call.items() if value is not None)


def _measured(
    evals: Mapping[str, Mapping[str, Any]], step: int
) -> tuple[tuple[Measured, ...], tuple[Measured, ...]]:
    """The headlines of quality and of bias; numbers of another step say so."""
    quality: list[Measured] = []
    bias: list[Measured] = []
    for name, record in evals.items():
        result = EvalResult(record["metrics"], record["details"])
        topic = describe(result.details).topic
        # Loss and accuracy within batches depend on the batch size and say little outside the run.
        if topic == "health":
            continue
        # Evaluations may be older than the checkpoint that is exported.
        at = "" if record.get("step", step) == step else f" (at step {record['step']:,})"
        for key, metric in headline_metrics(result).items():
            value = result.metrics[key]
            row = Measured(
                spaced(name) + at,
                metric.label,
                format_unit(value, metric.unit),
                against(metric, result.metrics),
            )
            (bias if topic in _BIAS else quality).append(row)
    return tuple(quality), tuple(bias)
