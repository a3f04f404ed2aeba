"""The schema: every key of a config, its default, its unit.

An experiment starts from `default_config()` and changes what it is about. Keys that are not here are
errors; sections marked "arguments of f" are checked against f's signature, and take all its arguments.
"""

import ml_collections

RENAMED = {"objective.*.weigh_candidates": "weight_candidates"}
"""Old keys, as patterns, to the new name of their last part."""


def default_config() -> ml_collections.ConfigDict:
    """Returns a config with every key at its default."""
    config = ml_collections.ConfigDict()

    config.seed = 0  # of everything: initial parameters, order of examples, augmentation
    config.total = "10_000 steps"  # how long: "N steps", "N epochs" or "N examples"
    config.batch_size = 256  # examples per step, over all devices and hosts

    # Where examples come from, and how each becomes arrays (bias_clip/data).
    config.data = dict(
        source=dict(name="emoji", split="train", unit="entry"),  # arguments of make_source
        image="decode|background(white)|resize(64)|value_range(-1,1)",  # ops, left to right
        text=dict(tokenizer="emoji", length=16),  # arguments of make_text_fn
        first_caption=0.0,  # share of visits that read the first caption; the others draw one at random
        columns=dict(),  # batch key = attribute of the records (bias_clip/data/stream/columns.py)
        balance=None,  # or arguments of make_plan (bias_clip/data/stream/balanced.py); switch: a duration
        cells=None,  # or arguments of make_cells_plan (bias_clip/data/stream/cells.py); not with balance
        num_threads=1,  # threads that decode and augment, per host, or of each of its processes
        num_workers=0,  # processes per host that do so, for over 1,000 images per second; 0: the run's own
        prefetch=4,  # batches held ready, per host
        max_bad_share=0.01,  # share of undecodable records above which the run stops
    )

    # Arguments of make_model (bias_clip/models/two_towers.py).
    config.model = dict(
        image=dict(variant="Ti/8", size=64, pool="map"),
        text=dict(variant="Ti", vocab_size=2_000, length=16, out_dim=192),
        scale_init=10.0,  # t = exp(t'), SigLIP's start
        bias_init=-10.0,  # SigLIP's start
        dtype="float32",  # of the towers' arithmetic; parameters are always float32
        remat="none",  # what the backward pass recomputes
        scan=True,  # over depth: one layer compiled, or all of them unrolled
        attention="xla",  # fused: "cudnn" on NVIDIA GPUs in bfloat16, "pallas" on TPUs
    )

    # What is minimised: the sum of coef * term. Terms that are listed here are on (train/objective.py).
    config.objective = dict(sigmoid=dict(coef=1.0, duplicates="keep", chunk_size=None))

    # Arguments of make_optimizer (train/optim/optimizer.py) and make_schedule (train/optim/schedule.py).
    config.optimizer = dict(
        name="adamw",
        lr=1e-3,
        weight_decay=1e-4,  # decoupled: multiplied by the schedule, not by lr
        clip_norm=1.0,  # of the gradient over all parameters; None: no clipping
        decay=(("kernel$", 1.0),),  # (regex, multiplier) of weight_decay; first match, else 0
        lr_mults=(),  # (regex, multiplier) of lr; first match, else 1
        freeze=(),  # regexes of parameters that are not trained
        b2=0.95,
    )
    config.schedule = dict(name="cosine", warmup="10%")  # warmup: a duration
    config.ema_decay = None  # or a float: the decay of a parameter average, evaluated instead

    # Devices: axes of the mesh (-1: all remaining devices), and how each parameter is split.
    config.mesh = dict(data=-1, fsdp=1, tensor=1)
    # (regex, spec), the first that matches; specs: tree_shardings (train/sharding.py). Over the axis
    # "tensor" go heads, hidden units and the vocabulary; over "fsdp" what is left of each leaf.
    config.sharding = (
        ("(query|key|value)/(kernel|bias)$", "tensor@-2,fsdp"),
        ("attention/out/kernel$", "tensor@-3,fsdp"),
        ("mlp/fc1/(kernel|bias)$", "tensor@-1,fsdp"),
        ("mlp/fc2/kernel$", "tensor@-2,fsdp"),
        ("txt/embedding$", "tensor@-2?,fsdp"),
        (".*", "fsdp"),
    )

    # How the gradient of a batch is made: "none", "microbatch" (fewer negatives) or "cached" (exact).
    config.accumulation = dict(mode="none", steps=1)  # steps: microbatches per batch

    # None, or dict(until="80%", size=..., length=..., patches=...): the first steps see less of each input
    # (train/light.py), which makes them cheaper. until: a duration.
    config.light = None

    # A step whose loss or gradient is not finite is skipped; None: no guard.
    config.guards = dict(
        max_grad_norm=None,  # skip also above this norm of the gradient, before clipping
        max_consecutive=20,  # consecutive skipped steps that stop the run; None: never
    )
    config.stall_seconds = 1800.0  # without a finished step before all stacks are written; or None

    # Evaluators run every so often and at the end. Each: type and arguments of its make_<type>.
    config.evaluation = dict(
        every="25%",
        batch_size=256,  # images or texts embedded at a time
        image="decode|background(white)|resize(64)|value_range(-1,1)",
    )
    config.evals = dict()

    config.log_every = "20 steps"
    config.checkpoint = dict(every="25%", keep=2)  # keep: the newest ones that stay on disk
    config.keep_every = None  # or a multiple of checkpoint.every: these are never deleted
    # None, or arguments of load_params (bias_clip/train/workdir/initial_state.py): weights to start from, of
    # a run or of a published checkpoint (hf://owner/name, gs://, a file, a folder).
    config.init_from = None
    config.sinks = ()  # beside TensorBoard: "wandb", "trackio" (bias_clip/train/display/sinks.py)
    return config
