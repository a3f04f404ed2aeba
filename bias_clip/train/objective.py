"""What is minimised: the terms of a config, summed, under the one shard_map of the trainer."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from bias_clip.losses import sigmoid_loss, softmax_loss, weighted_mean
from bias_clip.models.two_towers import Outputs
from bias_clip.train.sharding import BATCH_AXES

# Batch keys that terms may read; the pictures and the tokens stay outside of shard_map.
ROW_KEYS = ("labels", "bias_labels", "cells", "prior", "weights")


def sigmoid_term(
    outputs: Outputs,
    batch: Mapping[str, Array],
    *,
    duplicates: str = "keep",
    margin: float = 0.0,
    chunk_size: int | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Returns SigLIP's loss. `duplicates="mask"`: equal captions are no negatives of each other."""
    values = sigmoid_loss(
        *_both_towers(outputs),
        scale=outputs.scale,
        bias=outputs.bias,
        margin=margin,
        labels=_duplicate_labels(batch, duplicates),
        chunk_size=chunk_size,
        axis_name=axis_name,
    )
    return weighted_mean(values, batch.get("weights"), axis_name)


def softmax_term(
    outputs: Outputs,
    batch: Mapping[str, Array],
    *,
    duplicates: str = "keep",
    epsilon: float = 0.0,
    chunk_size: int | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Returns CLIP's loss. `duplicates="mask"`: equal captions are no negatives of each other."""
    values = softmax_loss(
        *_both_towers(outputs),
        scale=outputs.scale,
        epsilon=epsilon,
        labels=_duplicate_labels(batch, duplicates),
        chunk_size=chunk_size,
        axis_name=axis_name,
    )
    return weighted_mean(values, batch.get("weights"), axis_name)


TERMS: dict[str, Callable] = {"sigmoid": sigmoid_term, "softmax": softmax_term}


def make_objective(
    terms: Mapping[str, Mapping[str, Any]], mesh: Mesh
) -> Callable[[Outputs, Mapping[str, Array]], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]]:
    """Returns `objective(outputs, batch) -> (sum of coef * term, {name: term})`.

    Each term runs on local rows inside `shard_map`; the value is replicated, so it is to be
    differentiated from outside, which gives exact gradients on any mesh.

    Args:
      terms: `{name of a term: dict(coef=..., **its arguments)}`.
      mesh: from `make_mesh`.
    """
    rows = PartitionSpec(BATCH_AXES)
    specs: Any = Outputs._make((rows, rows, PartitionSpec(), PartitionSpec()))

    def local_objective(outputs, batch):
        parts = {}
        for name, arguments in terms.items():
            plain = {key: value for key, value in arguments.items() if key != "coef"}
            parts[name] = TERMS[name](outputs, batch, axis_name=BATCH_AXES, **plain)
        return sum(terms[name]["coef"] * value for name, value in parts.items()), parts

    def objective(outputs, batch):
        given = {key: batch[key] for key in ROW_KEYS if key in batch}
        sharded = jax.shard_map(
            local_objective,
            mesh=mesh,
            in_specs=(specs, rows),
            out_specs=PartitionSpec(),
        )
        return sharded(outputs, given)

    return objective


def _both_towers(outputs: Outputs) -> tuple[Array, Array]:
    if outputs.zimg is None or outputs.ztxt is None:
        raise ValueError("got the outputs of one tower; a loss needs pictures and texts.")
    return outputs.zimg, outputs.ztxt


def _duplicate_labels(batch: Mapping[str, Array], duplicates: str) -> Array | None:
    if duplicates not in ("keep", "mask"):
        raise ValueError(f"duplicates is {duplicates!r}; expected 'keep' or 'mask'.")
    return batch["labels"] if duplicates == "mask" else None
