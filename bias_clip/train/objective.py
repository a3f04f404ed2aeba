"""What is minimised: the terms of a config, summed, under the one shard_map of the trainer."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from bias_clip.data.stream.batch import ROW_KEYS
from bias_clip.models.two_towers import Outputs
from bias_clip.train.sharding import BATCH_AXES
from bias_clip.train.terms import TERMS


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
        # Images and tokens stay outside of shard_map: no term reads them.
        given = {key: batch[key] for key in ROW_KEYS if key in batch}
        sharded = jax.shard_map(
            local_objective,
            mesh=mesh,
            in_specs=(specs, rows),
            out_specs=PartitionSpec(),
        )
        return sharded(outputs, given)

    return objective
