"""From a config and a mesh to the compiled pieces of a run; reads no data and touches no disk."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from bias_clip.core.registry import named
from bias_clip.data.stream.batch import attributes_of, batch_columns
from bias_clip.models.two_towers import Model
from bias_clip.train.accumulate import make_gradient
from bias_clip.train.light import LightSteps, make_light
from bias_clip.train.metrics import health
from bias_clip.train.model import (
    has_frozen_tower,
    make_model_on,
    on_bytes,
    towers_apart,
    with_sharding,
)
from bias_clip.train.objective import make_objective
from bias_clip.train.optim import frozen_leaves, make_optimizer
from bias_clip.train.optim.schedule import Duration, make_schedule, parse_duration
from bias_clip.train.sharding import (
    batch_sharding,
    check_batch_size,
    make_layout,
    replicated,
    state_shardings,
    tree_shardings,
)
from bias_clip.train.state import TrainState, init_state
from bias_clip.train.step import make_train_step


class Setup(NamedTuple):
    """A run before its first batch."""

    mesh: Mesh
    model: Model
    apply: Callable  # (params, image, text) -> Outputs, of images as a batch has them
    schedule: Callable  # step -> multiplier of the learning rate
    total_steps: int
    log_every: int
    evaluate_every: int
    save_every: int
    keep_every: int | None  # checkpoints at multiples of this step are never deleted
    switch: int | None  # the first step, counted from 0, of the data's second phase, if any
    abstract_state: TrainState  # ShapeDtypeStructs with shardings
    abstract_batch: dict[str, jax.ShapeDtypeStruct]
    init: Any  # jitted: key -> TrainState
    train_step: Any  # jitted: (state, batch) -> (state, metrics); the state is donated
    light: LightSteps | None  # the first steps, if they are cheaper ones


def step_after(setup: Setup, step: int) -> Any:
    """Returns the jitted step that follows `step` others."""
    light = setup.light
    return setup.train_step if light is None or step >= light.until else light.train_step


def make_setup(
    config: ml_collections.ConfigDict,
    *,
    mesh: Mesh,
    examples_per_epoch: int | None,
    make_objective: Callable = make_objective,
) -> Setup:
    """Returns the pieces of the run that `config` describes, on `mesh`.

    Args:
      config: validated.
      mesh: from `make_mesh`; its devices may be a topology that is only compiled for.
      examples_per_epoch: length of the source; None if no duration of the config is in epochs.
      make_objective: maps (terms, mesh) to the objective; for comparing another form of it.

    Raises:
      ValueError: if the batch does not divide over the mesh, or a duration cannot be resolved.
    """
    accumulation, guards = {"steps": 1, **config.accumulation.to_dict()}, config.guards
    with named("config.batch_size or config.accumulation.steps"):
        check_batch_size(config.batch_size, mesh, max(1, accumulation["steps"]))
    with named("config.evaluation.batch_size"):
        check_batch_size(config.evaluation.batch_size, mesh)
    known = {"batch_size": config.batch_size, "examples_per_epoch": examples_per_epoch}
    total_steps = _total_steps(config.total, known)

    # Durations in epochs or examples need the size of the data, which only the caller knows.
    def steps(key, duration):
        with named(f"config.{key}"):
            return parse_duration(duration, total_steps=total_steps, **known)

    with named("config.schedule"):
        schedule = make_schedule(total_steps=total_steps, **known, **config.schedule.to_dict())
    with named("config.model"):
        model = make_model_on(config.model.to_dict(), mesh)
    # Shapes only; the parameters are made when nothing is left that could be refused.
    params_shape = jax.eval_shape(model.init, jax.random.key(0))
    with named("config.optimizer"):
        tx = make_optimizer(params_shape, schedule=schedule, **config.optimizer.to_dict())
    # A duration that rounds to 0 steps means every step.
    log_every, save_every = (
        max(1, steps("log_every", config.log_every)),
        max(1, steps("checkpoint.every", config.checkpoint.every)),
    )
    init = _make_init(
        model, tx, with_ema=config.ema_decay is not None, with_guard=guards is not None
    )
    abstract_state = _with_shardings(init, config.sharding, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state)
    apply = on_bytes(model.apply, config.data.image)
    # Before the gradient is made: a tower that is frozen whole needs no backward pass.
    frozen = frozen_leaves(params_shape, freeze=config.optimizer.get("freeze", ()))
    apart = has_frozen_tower(frozen)
    objective = make_objective(config.objective.to_dict(), mesh)

    def jitted_step(apply: Callable, inputs: Callable | None = None) -> Any:
        gradient = make_gradient(
            apply=towers_apart(apply) if apart else apply,
            objective=objective,
            mesh=mesh,
            layout=make_layout(shardings.params),
            frozen=frozen,
            **accumulation,
        )
        train_step = make_train_step(
            gradient=gradient,
            tx=tx,
            health=health,
            log_every=log_every,
            total_steps=total_steps,
            ema_decay=config.ema_decay,
            max_grad_norm=None if guards is None else guards.max_grad_norm,
        )
        return jax.jit(
            train_step if inputs is None else _on_inputs(train_step, inputs),
            in_shardings=(shardings, batch_sharding(mesh)),
            out_shardings=(shardings, replicated(mesh)),
            # The old state's memory holds the new one: a step needs the state once and not twice.
            donate_argnums=0,
        )

    light = None
    if config.light is not None:
        light_steps = config.light.to_dict()
        until = _within("light.until", light_steps.pop("until"), steps, total_steps)
        over = {"ops": config.data.image, "seed": config.seed, **light_steps}
        with named("config.light"):
            light_apply, inputs = make_light(config.model.to_dict(), model, mesh, **over)
        light = LightSteps(until, light_apply, inputs, jitted_step(light_apply, inputs))
    return Setup(
        mesh=mesh,
        model=model,
        apply=apply,
        schedule=jax.jit(schedule),  # one program; by itself each operation would be one
        total_steps=total_steps,
        log_every=log_every,
        evaluate_every=max(1, steps("evaluation.every", config.evaluation.every)),
        save_every=save_every,
        keep_every=_keep_every(config.keep_every, steps, save_every),
        switch=_switch(config.data, steps, total_steps),
        abstract_state=abstract_state,
        abstract_batch=_abstract_batch(config, mesh),
        init=jax.jit(init, out_shardings=shardings),
        train_step=jitted_step(apply),
        light=light,
    )


def _on_inputs(train_step: Callable, inputs: Callable) -> Callable:
    def light_step(state, batch):
        return train_step(state, inputs(state.step, batch))

    return light_step


def _total_steps(total: Duration, known: Mapping[str, Any]) -> int:
    with named("config.total"):
        steps = parse_duration(total, **known)
    if not 1 <= steps < 2**31:  # the state counts steps in int32
        raise ValueError(f"config.total is {total!r}, {steps} steps; expected 1 to 2^31 - 1.")
    return steps


def _keep_every(keep_every: Duration | None, steps: Callable, save_every: int) -> int | None:
    if keep_every is None:
        return None
    count = steps("keep_every", keep_every)
    if count == 0 or count % save_every:
        raise ValueError(
            f"config.keep_every is {keep_every!r}, {count} steps, and checkpoint.every is {save_every} "
            "steps; expected a multiple of checkpoint.every."
        )
    return count


def _switch(data: ml_collections.ConfigDict, steps: Callable, total_steps: int) -> int | None:
    balance = data.balance
    if balance is None or "switch" not in balance or balance.switch is None:
        return None
    return _within("data.balance.switch", balance.switch, steps, total_steps)


def _within(key: str, duration: Duration, steps: Callable, total_steps: int) -> int:
    """The steps of a duration that must not be longer than the run."""
    count = steps(key, duration)
    if count > total_steps:
        raise ValueError(
            f"config.{key} is {duration!r}, step {count}, after the end of the run of {total_steps} "
            "steps; expected at most '100%'."
        )
    return count


def _make_init(
    model: Model, tx: optax.GradientTransformation, *, with_ema: bool, with_guard: bool
) -> Callable[[jax.Array], TrainState]:
    return lambda key: init_state(
        key, init=model.init, tx=tx, with_ema=with_ema, with_guard=with_guard
    )


def _with_shardings(init: Callable, rules: Any, mesh: Mesh) -> TrainState:
    shapes = jax.eval_shape(init, jax.random.key(0))
    of_params = tree_shardings(shapes.params, rules, mesh)
    return jax.tree.map(with_sharding, shapes, state_shardings(shapes, shapes.params, of_params))


def _abstract_batch(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    data, sharding = config.data, batch_sharding(mesh)
    columns = batch_columns(
        size=config.model.image.size,
        length=config.model.text.length,
        attributes=attributes_of(columns=data.columns, balance=data.balance, cells=data.cells),
    )
    return {
        name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in columns.items()
    }
