"""What is minimised: terms, from a table of the library's losses, summed under one shard_map.

`TERMS[name](outputs, batch, *, ..., axis_name) -> scalar`. The arguments of a term are those in the
signature of its loss, except what the run supplies: embeddings, scale, bias, and columns of the batch.
Besides the embeddings a term may read

* `text_id`: equal for equal captions; always there;
* `labels`, `bias_labels`, `prior`, `cells`, `weights`: columns of the data (`config.data.columns`).
  If the batch has `cells`, every term uses only pairs within one cell.

To add a term, add an entry to `_TABLE`. Arguments of the terms themselves:

    duplicates          "keep", or "mask": equal captions are not negatives of each other
    weight_candidates   whether the weights apply to candidates (the negatives) too, or only to anchors
    tower               whose embeddings: "image", "text", or "both" as two views
    across              whether a pair is an image and a text, instead of two examples of one tower
    prior               a number for all rows, or None: the batch has one per row
"""

import functools
import inspect
import math
import operator
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from bias_clip import losses
from bias_clip.data.stream.batch import ROW_KEYS, batch_columns
from bias_clip.models.two_towers import Outputs
from bias_clip.train.sharding import BATCH_AXES

Batch = Mapping[str, Array]
TOWERS = ("image", "text", "both")
DUPLICATES = ("keep", "mask")


class Term(NamedTuple):
    """A loss, and what it takes.

    Attributes:
      loss: of the library.
      takes: "pairs" of an image and a text; or "views", the embeddings of one tower, or of both as two
        views. Both give a value per row, which is averaged with the weights of the batch. Or "number":
        views, or pairs if `across`; the loss itself returns the average.
      columns: of the batch, which the loss takes after the embeddings.
      defaults: where they differ from those of the loss.
      without: another loss, which lacks the arguments of this one that are None.
    """

    loss: Callable[..., Array]
    takes: str
    columns: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = {}
    without: tuple[str, Callable[..., Array]] | None = None


_TABLE = {
    "sigmoid": Term(losses.sigmoid_loss, "pairs"),
    "softmax": Term(losses.softmax_loss, "pairs"),
    # Robinson's loss with hard negatives, or without a concentration the plain debiased one.
    "debiased": Term(
        losses.hard_debiased_loss,
        "pairs",
        defaults={"concentration": None},
        without=("concentration", losses.debiased_loss),
    ),
    "debiased_sigmoid": Term(losses.debiased_sigmoid_loss, "pairs"),
    "supcon": Term(losses.supcon_loss, "views", ("labels",)),
    "eps_supcon": Term(losses.eps_supcon_loss, "views", ("labels",)),
    "eps_supinfonce": Term(losses.eps_supinfonce_loss, "views", ("labels",)),
    # A collapsed model, or one at the start of training, has groups of equal distances: infinite
    # values. Therefore the term guards the variances, which the loss itself does not.
    "fairkl": Term(losses.fairkl, "number", ("labels", "bias_labels"), {"variance_guard": 1e-4}),
}

# What the run supplies: these are not arguments of a term.
_SUPPLIED = (
    "scale",
    "bias",
    "labels",
    "cells",
    "candidate_weights",
    "weights",
    "z_other",
    "axis_name",
)
_NOT_PER_ROW = ("positives",)  # a matrix, which no column of a batch can be
_PLAIN = (bool, int, float, str, type(None))


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
    # Embeddings are split by rows; scale and bias are the same on every device.
    specs: Any = Outputs._make((rows, rows, PartitionSpec(), PartitionSpec()))

    def local_objective(outputs, batch):
        parts = compute_terms(terms, outputs, batch, BATCH_AXES)
        # The sum of terms is equal on all devices, since each term ends in `weighted_mean`.
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


def compute_terms(
    terms: Mapping[str, Mapping[str, Any]], outputs: Outputs, batch: Batch, axis_name: Any = None
) -> dict[str, Float[Array, ""]]:
    """Returns `{name: term}`, all computed in one turn of the ring where they can be.

    Args:
      terms: as for `make_objective`; `coef` is not read.
      outputs: of local rows.
      batch: their columns.
      axis_name: as for the losses.
    """
    calls, weights = {}, {}
    for name, arguments in terms.items():
        plain = {key: value for key, value in arguments.items() if key != "coef"}
        calls[name], weights[name] = _call(
            _TABLE[name], outputs, batch, axis_name=axis_name, **plain
        )
    values = dict(zip(calls, losses.together(*calls.values()), strict=True))
    return {
        name: value
        if _TABLE[name].takes == "number"
        # Anchors are averaged with the weights of the batch, whether or not candidates have them.
        else losses.weighted_mean(value, weights[name], axis_name)
        for name, value in values.items()
    }


def check_term(
    name: str, arguments: Mapping[str, Any], *, batch_size: int, columns: Iterable[str]
) -> None:
    """Raises what the loss raises for arguments out of range, without computing anything.

    The loss is traced with shapes alone, so its own checks are the only place of the ranges.

    Args:
      name: of a term.
      arguments: of the config, `coef` included.
      batch_size: number of rows.
      columns: of the data, besides the embeddings.

    Raises:
      ValueError: an argument out of range, a factor that is not finite.
    """
    where = f"config.objective.{name}"
    if not math.isfinite(arguments["coef"]):
        raise ValueError(f"{where}.coef is {arguments['coef']}; expected a finite number.")

    def of(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    # Width 4 stands for any: no check of a loss depends on it.
    z, one = of((batch_size, 4), jnp.float32), of((), jnp.float32)
    made = batch_columns(size=1, length=1, attributes=columns)
    batch = {key: of((batch_size,), c.dtype) for key, c in made.items() if key in ROW_KEYS}
    plain = {key: value for key, value in arguments.items() if key != "coef"}
    try:
        jax.eval_shape(functools.partial(TERMS[name], **plain), Outputs(z, z, one, one), batch)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def needed_columns(name: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the columns of the data that a term needs."""
    needs = list(_TABLE[name].columns)
    if "prior" in _keywords(_TABLE[name]) and arguments.get("prior") is None:
        needs.append("prior")
    if arguments.get("weight_candidates", False):
        needs.append("weights")
    return tuple(needs)


def _make_term(name: str, term: Term) -> Callable[..., Float[Array, ""]]:
    """Returns the function for an entry of the table, with a signature made from that of its loss."""

    def compute(outputs: Outputs, batch: Batch, **arguments: Any) -> Array:
        axis_name = arguments.pop("axis_name", None)
        return compute_terms({name: arguments}, outputs, batch, axis_name)[name]

    signature = _signature(term)
    compute.__name__ = f"{name}_term"
    compute.__doc__ = term.loss.__doc__
    compute.__signature__ = signature  # type: ignore[attr-defined]
    compute.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return compute


def _call(
    term: Term,
    outputs: Outputs,
    batch: Batch,
    *,
    axis_name: Any = None,
    duplicates: str = "keep",
    weight_candidates: bool = False,
    tower: str = "image",
    across: bool = False,
    prior: float | None = None,
    **arguments: Any,
) -> tuple[functools.partial[Array], Array | None]:
    """The loss with all that it takes, and the weights of its rows."""
    _check_choice("duplicates", duplicates, DUPLICATES)
    _check_choice("tower", tower, TOWERS)
    embeddings, rows = _pairs(outputs), batch
    supplied: dict[str, Any] = {
        "axis_name": axis_name,
        "scale": outputs.scale,
        "bias": outputs.bias,
    }
    # A loss of views compares rows of one tower; `across` compares the two towers.
    if term.takes != "pairs" and not across:
        z, rows = _views(outputs, batch, tower)
        embeddings = (z,)
    elif across:  # the loss takes the other tower by its name
        embeddings, supplied["z_other"] = embeddings[:1], embeddings[1]
    supplied["labels"] = rows["text_id"] if duplicates == "mask" else None
    supplied["cells"], supplied["weights"] = rows.get("cells"), rows.get("weights")
    supplied["candidate_weights"] = rows["weights"] if weight_candidates else None
    keywords = _keywords(term)
    if "prior" in keywords:
        supplied["prior"] = rows["prior"] if prior is None else prior
    # Each loss gets only what its signature names; the signature is the one list of what it takes.
    supplied = {key: value for key, value in supplied.items() if key in keywords}
    columns = (rows[key] for key in term.columns)
    given, loss = {**term.defaults, **arguments}, term.loss
    if term.without is not None and given[term.without[0]] is None:
        loss = term.without[1]
        del given[term.without[0]]
    call = functools.partial(loss, *embeddings, *columns, **given, **supplied)
    return call, rows.get("weights")


def _signature(term: Term) -> inspect.Signature:
    """(outputs, batch, *, arguments of the loss, arguments of terms, axis_name)."""
    keywords = _keywords(term)
    made: dict[str, tuple[Any, Any]] = {}  # name: (type, default)
    for name, parameter in keywords.items():
        if name not in (*_SUPPLIED, *_NOT_PER_ROW):
            default = term.defaults.get(name, parameter.default)
            made[name] = (_plain_type(parameter.annotation), default)
            # None stands for the batch's own column or for a loss's default, so the config may say it.
            if default is None:
                made[name] = (made[name][0] | None, None)
    if "prior" in keywords:
        made["prior"] = (float | None, None)
    if "labels" in keywords:
        made["duplicates"] = (str, "keep")
    if "candidate_weights" in keywords:
        made["weight_candidates"] = (bool, False)
    if term.takes != "pairs":
        made["tower"] = (str, "image")
    if term.takes == "number":
        made["across"] = (bool, False)
    made["axis_name"] = (Any, None)
    kind = inspect.Parameter
    first = [kind("outputs", kind.POSITIONAL_OR_KEYWORD, annotation=Outputs)]
    first.append(kind("batch", kind.POSITIONAL_OR_KEYWORD, annotation=Batch))
    rest = [
        kind(name, kind.KEYWORD_ONLY, default=default, annotation=type_)
        for name, (type_, default) in made.items()
    ]
    return inspect.Signature([*first, *rest])


@functools.cache
def _keywords_of(loss: Callable) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(loss).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _keywords(term: Term) -> dict[str, inspect.Parameter]:
    return _keywords_of(term.loss)


def _plain_type(annotation: Any) -> Any:
    """The types that a config can hold: `Float[Array, ""] | float` is a float there."""
    options = [o for o in typing.get_args(annotation) or (annotation,) if o in _PLAIN]
    return functools.reduce(operator.or_, options)


def _views(outputs: Outputs, batch: Batch, tower: str) -> tuple[Array, Batch]:
    """Embeddings of one tower and the batch; or of both, and the batch twice."""
    zimg, ztxt = _pairs(outputs)
    if tower != "both":
        return (zimg if tower == "image" else ztxt), batch
    # Row i and row b + i are two views of one example, so that every column is repeated.
    twice = {key: jnp.concatenate([value, value]) for key, value in batch.items()}
    return jnp.concatenate([zimg, ztxt]), twice


def _pairs(outputs: Outputs) -> tuple[Array, ...]:
    if outputs.zimg is None or outputs.ztxt is None:
        raise ValueError("got the outputs of one tower; a loss needs images and texts.")
    return outputs.zimg, outputs.ztxt


def _check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"{name} is {value!r}; expected one of {valid}.")


TERMS: dict[str, Callable[..., Float[Array, ""]]] = {
    name: _make_term(name, term) for name, term in _TABLE.items()
}
"""Name to `f(outputs, batch, *, ..., axis_name)`."""
