"""Train step: images per second against open_clip and a bare JAX step, and where the time goes.

Both towers, sigmoid loss, gradients and AdamW with the same architecture, sizes, batch and precision,
in turns: ours, open_clip as its users run it (eager, and with `--torchcompile`), and a step written by
hand in plain JAX. Then each of our parts alone, with its share of the machine's matrix-product peak.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bias_clip.losses import sigmoid_loss
from bias_clip.models import Model, count_parameters
from bias_clip.models.attention import ATTENTIONS
from bias_clip.plan.flops import count_flops
from bias_clip.train.hosts.allocator import keep_pages
from bias_clip.train.optim import make_optimizer
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh
from configs.default import get_config
from tools.benches.bare import make_bare
from tools.benches.leads import LEADS, switch_off

PEERS = ("open_clip", "open_clip compiled", "bare JAX")
PAUSE = 0.2  # seconds between contestants: waiting threads of one library spin in the other's time


class Sizes(NamedTuple):
    """One architecture for both contestants."""

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    length: int
    vocab: int
    batch: int
    dtype: str


class Ours(NamedTuple):
    """Our train step, and its parts."""

    step: Callable[[], float]
    parameters: int
    model: Model
    params: Any
    tx: optax.GradientTransformation
    batch: dict[str, jax.Array]


class Peer(NamedTuple):
    """Another library's train step."""

    step: Callable[[], float]
    parameters: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `bench` reads."""
    for name, default in Sizes(64, 8, 192, 6, 3, 16, 32_000, 32, "float32")._asdict().items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each contestant")
    parser.add_argument(
        "--scan", action="store_true", help="our loop over depth compiled as a loop"
    )
    parser.add_argument("--remat", default="none", help="our remat policy")
    parser.add_argument("--attention", default="xla", choices=ATTENTIONS, help="ours")
    parser.add_argument(
        "--peers",
        nargs="*",
        default=PEERS,
        choices=PEERS,
        help="beside which ours runs; none: alone",
    )
    parser.add_argument(
        "--without", nargs="*", default=[], choices=LEADS, help="leads switched off"
    )
    parser.add_argument("--keep-pages", type=int, default=1, help="0: leave the allocator as it is")
    parser.add_argument("--parts", type=int, default=1, help="0: the step alone, not its parts")


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the throughputs, their ratio, and our time by part."""
    if args.keep_pages:
        keep_pages()
    switch_off(args.without)
    sizes = Sizes(*(getattr(args, name) for name in Sizes._fields))
    ours = make_ours(sizes, scan=args.scan, remat=args.remat, attention=args.attention)
    where = f"{_cores()} cores" if _on_cpu() else jax.devices()[0].device_kind
    print(f"{sizes}\n{ours.parameters:,} parameters, {where}, jax {jax.__version__}")
    steps = {"bias_clip": ours.step}
    for name in args.peers:
        peer = make_peer(name, sizes)
        if peer is None:
            continue
        if peer.parameters != ours.parameters:
            raise SystemExit(f"error: {name} has {peer.parameters:,}: not the same architecture")
        steps[name] = peer.step
    seconds = take_turns(steps, args.rounds)
    record: dict[str, Any] = {"sizes": sizes._asdict(), "parameters": ours.parameters}
    record |= {"device": where, "jax": jax.__version__, "without": args.without, "ratio": {}}
    for name, times in seconds.items():
        record[name] = _summary(times, sizes.batch)
        print(
            f"{name:<18}" + "".join(f" {key} {value:9.1f} " for key, value in record[name].items())
        )
    for name in list(seconds)[1:]:
        pairs = zip(seconds["bias_clip"], seconds[name], strict=True)
        record["ratio"][name] = statistics.median(theirs / mine for mine, theirs in pairs)
        print(f"bias_clip does {record['ratio'][name]:.2f} times the images per second of {name}")
    if args.parts:
        record |= explain(ours, sizes, args.rounds)
    return record


def take_turns(
    steps: dict[str, Callable[[], Any]], rounds: int, *, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each call of each contestant, after `warm_up` uncounted calls."""
    for step in steps.values():
        for _ in range(warm_up):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def make_ours(sizes: Sizes, *, scan: bool, remat: str, attention: str) -> Ours:
    """The trainer's own jitted step, on one fixed batch."""
    config = get_config()
    with config.unlocked():
        config.model = {
            "image": {"variant": f"Ti/{sizes.patch}", "size": sizes.size},
            "text": {
                "variant": "Ti",
                "vocab_size": sizes.vocab,
                "length": sizes.length,
                "out_dim": sizes.width,
            },
        } | {"dtype": sizes.dtype, "scan": scan, "remat": remat, "attention": attention}
        for tower in (config.model.image, config.model.text):
            tower.update(width=sizes.width, depth=sizes.depth, num_heads=sizes.heads)
    config.batch_size = sizes.batch
    config.total = config.log_every = "1_000_000 steps"  # no metrics except the loss
    config.optimizer.clip_norm = None  # open_clip's default
    setup = make_setup(config, mesh=make_mesh(), examples_per_epoch=None)
    image, text = make_inputs(sizes)
    batch = {"image": image, "text": text, "text_id": np.full(sizes.batch, -1, np.int32)}
    batch = jax.device_put(batch, jax.tree.map(lambda x: x.sharding, setup.abstract_batch))
    held = [setup.init(jax.random.key(0))]

    def step() -> float:
        held[0], metrics = setup.train_step(held[0], batch)
        return float(metrics["loss"])

    params = jax.jit(setup.model.init)(jax.random.key(0))
    tx = make_optimizer(params, schedule=setup.schedule, **config.optimizer.to_dict())
    return Ours(step, count_parameters(params), setup.model, params, tx, batch)


def make_peer(name: str, sizes: Sizes) -> Peer | None:
    """The contestant of that name, one of `PEERS`; None, with a line that says why, if it cannot run."""
    if name == "bare JAX":
        return Peer(*make_bare(sizes, make_inputs(sizes)))
    return make_open_clip(sizes, compiled=name == "open_clip compiled")


def make_open_clip(sizes: Sizes, *, compiled: bool) -> Peer | None:
    """The same model in PyTorch: open_clip's text tower and loss, timm's SigLIP ViT; or None.

    It runs as its users run it: `--precision amp_bf16`, with or without `--torchcompile`, TF32 allowed.
    """
    try:
        import open_clip
        import timm
        import torch
    # A torchvision that was built for another torch raises RuntimeError or OSError when it is imported.
    except (ImportError, RuntimeError, OSError) as error:
        print(f"without open_clip: {str(error).splitlines()[0]}")
        return None
    device = "cpu" if _on_cpu() else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("without open_clip: JAX sees a GPU and PyTorch does not")
        return None
    torch.set_num_threads(_cores())
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    model = open_clip.model.CustomTextCLIP(
        embed_dim=sizes.width,
        vision_cfg={"layers": 1, "width": 64, "image_size": 32},  # replaced below
        text_cfg={
            **{"context_length": sizes.length, "vocab_size": sizes.vocab, "width": sizes.width},
            **{"heads": sizes.heads, "layers": sizes.depth, "pool_type": "last"},
            **{"no_causal_mask": True, "proj_bias": True, "norm_kwargs": {"eps": 1e-6}},
            **{"act_kwargs": {"approximate": "tanh"}},
        },
        init_logit_bias=-10.0,
    )
    model.visual = timm.create_model(
        "vit_base_patch16_siglip_224",
        **{"img_size": sizes.size, "patch_size": sizes.patch, "embed_dim": sizes.width},
        **{"depth": sizes.depth, "num_heads": sizes.heads, "num_classes": 0},
        act_layer="gelu_tanh",
    )
    model.to(device)
    # fused: the fastest AdamW that PyTorch has.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    loss_fn = open_clip.loss.SigLipLoss()
    image, text = (torch.tensor(x, device=device) for x in make_inputs(sizes))
    image, text = image.permute(0, 3, 1, 2).contiguous(), text.long()

    forward = torch.compile(model) if compiled else model
    mixed = torch.autocast(device, torch.bfloat16, enabled=sizes.dtype == "bfloat16")

    def step() -> float:
        optimizer.zero_grad()
        with mixed:
            loss = loss_fn(*forward(image, text))
        loss.backward()
        optimizer.step()
        return loss.item()

    return Peer(step, sum(parameter.numel() for parameter in model.parameters()))


def explain(ours: Ours, sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Prints and returns each part's time, arithmetic and share of the matrix-product peak."""
    parts = _parts(ours)
    side = jnp.ones((1024, 1024), sizes.dtype)
    parts["matrix product"] = (lambda x: x @ x, (side,))
    flops = {name: count_flops(f, *inputs) for name, (f, inputs) in parts.items()}
    calls = {name: _caller(f, inputs) for name, (f, inputs) in parts.items()}
    times = take_turns({"whole step": ours.step} | calls, rounds)
    peak = flops.pop("matrix product") / min(times.pop("matrix product"))
    ms = {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
    for tower in ("image", "text"):  # the time of a gradient includes its forward pass
        ms[f"{tower} backward"] -= ms[f"{tower} forward"]
        flops[f"{tower} backward"] -= flops[f"{tower} forward"]
    flops["whole step"] = sum(flops.values())
    ms["rest"] = 2 * ms["whole step"] - sum(ms.values())
    table = {
        name: {
            "ms": ms[name],
            "share": ms[name] / ms["whole step"],
            "gflop": flops.get(name, 0.0) / 1e9,
            "of_peak": flops.get(name, 0.0) / (1e-3 * ms[name] * peak),
        }
        for name in ms
    }
    print(f"matrix products: {peak / 1e9:.0f} GFLOP/s at best; our parts, each jitted by itself:")
    for name, row in table.items():
        print(
            f"  {name:<16} {row['ms']:8.1f} ms {row['share']:7.1%} {row['gflop']:9.2f} GFLOP "
            f"{row['of_peak']:7.1%} of peak"
        )
    return {"peak_gflops": peak / 1e9, "parts": table}


def _parts(ours: Ours) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Functions and inputs that together are a train step."""
    model, params, batch = ours.model, ours.params, ours.batch

    def image(params, image):
        return jnp.sum(model.apply(params, image=image).zimg ** 3)

    def text(params, text):
        return jnp.sum(model.apply(params, text=text).ztxt ** 3)

    def loss(zimg, ztxt):
        return jnp.mean(sigmoid_loss(zimg, ztxt, scale=params_scale, bias=params["bias"]))

    def update(params, state):
        updates, state = ours.tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    params_scale = jnp.exp(params["log_scale"])
    z = jax.jit(model.apply)(params, batch["image"], batch["text"])
    images, texts = (params, batch["image"]), (params, batch["text"])
    return {
        "image forward": (image, images),
        "image backward": (jax.grad(image), images),
        "text forward": (text, texts),
        "text backward": (jax.grad(text), texts),
        "loss": (jax.grad(loss, (0, 1)), (z.zimg, z.ztxt)),
        "optimiser": (update, (params, ours.tx.init(params))),
    }


def _caller(function: Callable[..., Any], inputs: tuple[Any, ...]) -> Callable[[], Any]:
    jitted = jax.jit(function)
    return lambda: jax.block_until_ready(jitted(*inputs))


def make_inputs(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Random images and texts, the same for every contestant."""
    random = np.random.default_rng(0)
    image = random.uniform(-1, 1, (sizes.batch, sizes.size, sizes.size, 3)).astype(np.float32)
    return image, random.integers(0, sizes.vocab, (sizes.batch, sizes.length)).astype(np.int32)


def _summary(seconds: list[float], batch: int) -> dict[str, float]:
    low, middle, high = statistics.quantiles(seconds, n=4)
    return {
        "images_per_second": batch / middle,
        "ms": 1e3 * middle,
        "ms_quartile_1": 1e3 * low,
        "ms_quartile_3": 1e3 * high,
    }


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
