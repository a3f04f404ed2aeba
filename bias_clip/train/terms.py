"""The terms of an objective: three-line adapters from (outputs, batch) to the losses of the library.

Each is `f(outputs, batch, *, ..., axis_name) -> scalar`, the `weighted_mean` of its loss over rows with
`batch["weights"]`, where there are any. Beside the embeddings a term may read

* `text_id`: equal for equal captions; always there;
* `labels`, `bias_labels`, `prior`, `cells`, `weights`: columns of the data (`config.data.columns`).
  `cells`, where they are there, restrict every term to pairs of one cell.

The arguments of a term are those of its loss; `weigh_candidates` gives the weights to the candidates
(the negatives) too, and not to the anchors alone.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from bias_clip import losses
from bias_clip.models.two_towers import Outputs

Batch = Mapping[str, Array]
TOWERS = ("image", "text", "both")


def sigmoid_term(
    outputs: Outputs,
    batch: Batch,
    *,
    duplicates: str = "keep",
    margin: float = 0.0,
    weigh_candidates: bool = False,
    chunk_size: int | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Returns SigLIP's loss. `duplicates="mask"`: equal captions are no negatives of each other."""
    values = losses.sigmoid_loss(
        *_both_towers(outputs),
        scale=outputs.scale,
        bias=outputs.bias,
        margin=margin,
        labels=_duplicate_labels(batch, duplicates),
        **_rows(batch, weigh_candidates, chunk_size, axis_name),
    )
    return losses.weighted_mean(values, batch.get("weights"), axis_name)


def softmax_term(
    outputs: Outputs,
    batch: Batch,
    *,
    duplicates: str = "keep",
    epsilon: float = 0.0,
    weigh_candidates: bool = False,
    chunk_size: int | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Returns CLIP's loss. `duplicates="mask"`: equal captions are no negatives of each other."""
    values = losses.softmax_loss(
        *_both_towers(outputs),
        scale=outputs.scale,
        epsilon=epsilon,
        labels=_duplicate_labels(batch, duplicates),
        **_rows(batch, weigh_candidates, chunk_size, axis_name),
    )
    return losses.weighted_mean(values, batch.get("weights"), axis_name)


def supcon_term(
    outputs: Outputs,
    batch: Batch,
    *,
    temperature: float,
    base_temperature: float | None = None,
    tower: str = "image",
    weigh_candidates: bool = False,
    chunk_size: int | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Returns SupCon of one tower's embeddings, or of both as two views."""
    z, rows = _views(outputs, batch, tower)
    values = losses.supcon_loss(
        z,
        rows["labels"],
        temperature=temperature,
        base_temperature=base_temperature,
        **_rows(rows, weigh_candidates, chunk_size, axis_name),
    )
    return losses.weighted_mean(values, rows.get("weights"), axis_name)


def eps_supcon_term(
    outputs: Outputs,
    batch: Batch,
    *,
    temperature: float,
    epsilon: float,
    base_temperature: float | None = None,
    log_guard: float = 0.0,
    tower: str = "image",
    weigh_candidates: bool = False,
    chunk_size: int | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Returns epsilon-SupCon of one tower's embeddings, or of both as two views."""
    z, rows = _views(outputs, batch, tower)
    values = losses.eps_supcon_loss(
        z,
        rows["labels"],
        temperature=temperature,
        epsilon=epsilon,
        base_temperature=base_temperature,
        log_guard=log_guard,
        **_rows(rows, weigh_candidates, chunk_size, axis_name),
    )
    return losses.weighted_mean(values, rows.get("weights"), axis_name)


def eps_supinfonce_term(
    outputs: Outputs,
    batch: Batch,
    *,
    temperature: float,
    epsilon: float,
    form: str = "out",
    base_temperature: float | None = None,
    log_guard: float = 0.0,
    tower: str = "image",
    weigh_candidates: bool = False,
    chunk_size: int | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Returns epsilon-SupInfoNCE of one tower's embeddings, or of both as two views."""
    z, rows = _views(outputs, batch, tower)
    values = losses.eps_supinfonce_loss(
        z,
        rows["labels"],
        temperature=temperature,
        epsilon=epsilon,
        form=form,
        base_temperature=base_temperature,
        log_guard=log_guard,
        **_rows(rows, weigh_candidates, chunk_size, axis_name),
    )
    return losses.weighted_mean(values, rows.get("weights"), axis_name)


def fairkl_term(
    outputs: Outputs,
    batch: Batch,
    *,
    form: str = "kl",
    tower: str = "image",
    across: bool = False,
    variance_guard: float = 1e-4,
    chunk_size: int | None = 1024,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Returns FairKL within a tower, or `across` both: distances between pictures and texts.

    Unlike the loss, the term guards the variances by default: groups of equal distances, as a
    collapsed or very young model has them, would give infinite values.
    """
    if across:
        (z, z_other), rows = _both_towers(outputs), batch
    else:
        (z, rows), z_other = _views(outputs, batch, tower), None
    return losses.fairkl(
        z,
        rows["labels"],
        rows["bias_labels"],
        form=form,
        z_other=z_other,
        weights=rows.get("weights"),
        variance_guard=variance_guard,
        chunk_size=chunk_size,
        axis_name=axis_name,
    )


def debiased_term(
    outputs: Outputs,
    batch: Batch,
    *,
    prior: float | None = None,
    concentration: float | None = None,
    negatives: str = "cross",
    weigh_candidates: bool = False,
    chunk_size: int | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Returns the debiased loss; sample-specific where `prior` is None: then the batch has it.

    With a `concentration` it is Robinson's loss with hard negatives.
    """
    loss: Callable[..., Array] = losses.debiased_loss
    if concentration is not None:
        loss = functools.partial(losses.hard_debiased_loss, concentration=concentration)
    values = loss(
        *_both_towers(outputs),
        prior=batch["prior"] if prior is None else prior,
        scale=outputs.scale,
        negatives=negatives,
        **_rows(batch, weigh_candidates, chunk_size, axis_name),
    )
    return losses.weighted_mean(values, batch.get("weights"), axis_name)


def debiased_sigmoid_term(
    outputs: Outputs,
    batch: Batch,
    *,
    prior: float | None = None,
    weigh_candidates: bool = False,
    chunk_size: int | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Returns the sigmoid form of the debiased loss; `prior` as in `debiased_term`."""
    values = losses.debiased_sigmoid_loss(
        *_both_towers(outputs),
        prior=batch["prior"] if prior is None else prior,
        scale=outputs.scale,
        bias=outputs.bias,
        **_rows(batch, weigh_candidates, chunk_size, axis_name),
    )
    return losses.weighted_mean(values, batch.get("weights"), axis_name)


TERMS: dict[str, Callable] = {
    "sigmoid": sigmoid_term,
    "softmax": softmax_term,
    "supcon": supcon_term,
    "eps_supcon": eps_supcon_term,
    "eps_supinfonce": eps_supinfonce_term,
    "fairkl": fairkl_term,
    "debiased": debiased_term,
    "debiased_sigmoid": debiased_sigmoid_term,
}
_NEEDS = {
    "supcon": ("labels",),
    "eps_supcon": ("labels",),
    "eps_supinfonce": ("labels",),
    "fairkl": ("labels", "bias_labels"),
}


def needed_columns(name: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the columns of the data that a term cannot do without."""
    needs = list(_NEEDS.get(name, ()))
    if name.startswith("debiased") and arguments.get("prior") is None:
        needs.append("prior")
    if arguments.get("weigh_candidates", False):
        needs.append("weights")
    return tuple(needs)


def _rows(batch: Batch, weigh_candidates: bool, chunk_size: int | None, axis_name: Any) -> dict:
    """The arguments that every loss per row has."""
    return {
        "cells": batch.get("cells"),
        "candidate_weights": batch["weights"] if weigh_candidates else None,
        "chunk_size": chunk_size,
        "axis_name": axis_name,
    }


def _views(outputs: Outputs, batch: Batch, tower: str) -> tuple[Array, Batch]:
    """Embeddings of one tower and the batch; or of both, and the batch twice."""
    if tower not in TOWERS:
        raise ValueError(f"tower is {tower!r}; expected one of {TOWERS}.")
    zimg, ztxt = _both_towers(outputs)
    if tower != "both":
        return (zimg if tower == "image" else ztxt), batch
    twice = {key: jnp.concatenate([value, value]) for key, value in batch.items()}
    return jnp.concatenate([zimg, ztxt]), twice


def _both_towers(outputs: Outputs) -> tuple[Array, Array]:
    if outputs.zimg is None or outputs.ztxt is None:
        raise ValueError("got the outputs of one tower; a loss needs pictures and texts.")
    return outputs.zimg, outputs.ztxt


def _duplicate_labels(batch: Batch, duplicates: str) -> Array | None:
    if duplicates not in ("keep", "mask"):
        raise ValueError(f"duplicates is {duplicates!r}; expected 'keep' or 'mask'.")
    return batch["text_id"] if duplicates == "mask" else None
