"""Epsilon-SupInfoNCE and FairKL on digits whose background gives them away: does the model look twice?

python tools/biased_digits.py [--seeds 3] [--json FILE] [--plot docs/biased_digits.png]

The protocol of Biased-MNIST on the handwritten digits that scikit-learn ships (1,797 pictures of 8 x 8,
from the UCI repository). Each training digit stands for `--copies` pictures, moved by up to a pixel.
A picture's background has its class's colour with probability rho, else one of the nine others; in
the test, which shows other digits, every colour is equally likely. An encoder is trained with each
loss on those colours as bias labels; a linear layer learns the classes from its detached embeddings
at the same time (Barbano et al. 2023, as in their code; here the last accuracy counts, not the best).

Needs `pip install -e ".[experiments]"`. It is also the shortest example of our losses in a plain optax loop: see `train_one`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from bias_clip.losses import eps_supinfonce_loss, fairkl, supcon_loss, weighted_mean

RHOS = (0.999, 0.997, 0.995, 0.99)
CLASSES, WIDTH, TEMPERATURE, EPSILON = 10, 128, 0.1, 0.5
TEST_SHARE = 0.3


def cross_entropy(z: Any, logits: Any, labels: Any, bias: Any) -> Any:
    """The baseline: the linear layer's own loss, here with its gradient into the encoder."""
    del z, bias
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def supcon(z: Any, logits: Any, labels: Any, bias: Any) -> Any:
    """SupCon (Khosla et al. 2020)."""
    del logits, bias
    return weighted_mean(supcon_loss(z, labels, temperature=TEMPERATURE))


def eps_supinfonce(z: Any, logits: Any, labels: Any, bias: Any) -> Any:
    """Epsilon-SupInfoNCE (Barbano et al. 2023, eq. 4)."""
    del logits, bias
    rows = eps_supinfonce_loss(z, labels, temperature=TEMPERATURE, epsilon=EPSILON)
    return weighted_mean(rows)


def with_fairkl(form: str, coef: float) -> Callable[..., Any]:
    """Epsilon-SupInfoNCE and `coef` times FairKL; its guard keeps rare groups finite."""

    def loss(z, logits, labels, bias):
        fair = fairkl(z, labels, bias, form=form, variance_guard=1e-2)
        return eps_supinfonce(z, logits, labels, bias) + coef * fair

    return loss


METHODS: dict[str, Callable[..., Any]] = {
    "cross-entropy": cross_entropy,
    "SupCon": supcon,
    "eps-SupInfoNCE": eps_supinfonce,
    "+ FairKL, means": with_fairkl("mean", 10.0),
    "+ FairKL": with_fairkl("kl", 1.0),
}


def load_digits(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training pictures and labels, test pictures and labels: grey, in [0, 1], split by the seed."""
    from sklearn import datasets

    digits = datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    cut = int(TEST_SHARE * len(order))
    images, labels = digits.images[order] / 16.0, digits.target[order]
    return images[cut:], labels[cut:], images[:cut], labels[:cut]


def colours() -> np.ndarray:
    """Ten colours that are easy to tell apart, one a class, [10, 3]."""
    grid = np.array([[r, g, b] for r in (0, 0.5, 1) for g in (0, 0.5, 1) for b in (0, 0.5, 1)])
    return grid[[2, 6, 18, 8, 20, 24, 4, 10, 12, 22]]


def draw_colours(labels: np.ndarray, rho: float, random: np.random.Generator) -> np.ndarray:
    """The colour of each picture: its class's with probability rho, else one of the others."""
    other = (labels + random.integers(1, CLASSES, len(labels))) % CLASSES
    return np.where(random.random(len(labels)) < rho, labels, other)


def paint(images: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """White ink on a coloured ground: [n, 8, 8, 3]."""
    ink = images[..., None]
    return (ink + (1 - ink) * colours()[colour][:, None, None, :]).astype(np.float32)


def move(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each picture moved by up to a pixel."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    y, x = random.integers(0, 3, (2, len(images)))
    rows, columns = np.arange(8)[None, :, None], np.arange(8)[None, None, :]
    at = np.arange(len(images))[:, None, None]
    return padded[at, rows + y[:, None, None], columns + x[:, None, None]]


def init(key: jax.Array) -> dict[str, jax.Array]:
    """Two convolutions, a hidden layer, an embedding, and the linear layer that is judged."""
    shapes = {
        "conv0": (3, 3, 3, 32),
        "conv1": (3, 3, 32, 64),
        "hidden": (4 * 4 * 64, WIDTH),
        "embed": (WIDTH, WIDTH),
        "linear": (WIDTH, CLASSES),
    }
    keys = jax.random.split(key, len(shapes))
    make = jax.nn.initializers.he_normal()
    return {name: make(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}


def encode(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Unit-norm embeddings [b, 128] of pictures [b, 8, 8, 3]."""
    layout = ("NHWC", "HWIO", "NHWC")
    for name, stride in (("conv0", 1), ("conv1", 2)):
        x = jax.lax.conv_general_dilated(
            x, params[name], (stride, stride), "SAME", dimension_numbers=layout
        )
        x = jax.nn.relu(x)
    x = jax.nn.relu(x.reshape(len(x), -1) @ params["hidden"]) @ params["embed"]
    return x / jnp.sqrt(jnp.sum(x * x, axis=1, keepdims=True) + 1e-6)


def train_one(loss: Callable[..., Any], rho: float, seed: int, args: argparse.Namespace) -> float:
    """Returns the accuracy on unbiased test pictures after training with a loss."""
    train_images, train_labels, test_images, test_labels = load_digits(seed)
    random = np.random.default_rng((seed, round(1e4 * rho)))
    labels = np.tile(train_labels, args.copies)
    bias = draw_colours(labels, rho, random)
    images = paint(move(np.tile(train_images, (args.copies, 1, 1)), random), bias)
    steps = args.epochs * (len(labels) // args.batch)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
    into_encoder = loss is cross_entropy

    def objective(params, x, y, b):
        z = encode(params, x)
        logits = 10 * (z if into_encoder else jax.lax.stop_gradient(z)) @ params["linear"]
        judge = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return judge if into_encoder else judge + loss(z, logits, y, b)

    @jax.jit
    def step(params, state, x, y, b):
        gradient = jax.grad(objective)(params, x, y, b)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    params = init(jax.random.key(seed))
    state = optimizer.init(params)
    for i in range(steps):
        place = i % (len(labels) // args.batch)
        if place == 0:
            order = random.permutation(len(labels))
        rows = order[place * args.batch : (place + 1) * args.batch]
        params, state = step(params, state, images[rows], labels[rows], bias[rows])
    shown = np.repeat(test_images, CLASSES, axis=0)
    x = paint(shown, np.tile(np.arange(CLASSES), len(test_images)))
    guess = np.argmax(np.asarray(encode(params, jnp.asarray(x)) @ params["linear"]), axis=1)
    return float(np.mean(guess == np.repeat(test_labels, CLASSES)))


def main() -> None:
    """Trains every method at every correlation with every seed; prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--rhos", type=float, nargs="+", default=list(RHOS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--json", type=Path, help="also write the accuracies here")
    parser.add_argument("--plot", type=Path, help="also draw them here")
    args = parser.parse_args()
    runs = [(m, r, s) for s in range(args.seeds) for r in args.rhos for m in args.methods]
    found: dict[tuple[str, float], list[float]] = {}
    start = time.monotonic()
    for method, rho, seed in tqdm(runs, unit="run", dynamic_ncols=True):
        found.setdefault((method, rho), []).append(train_one(METHODS[method], rho, seed, args))
    print(f"accuracy on unbiased pictures, {args.seeds} seeds, {time.monotonic() - start:.0f} s")
    print(f"{'rho':<18}" + "".join(f"{rho:>16}" for rho in args.rhos))
    for method in args.methods:
        cells = [found[method, rho] for rho in args.rhos]
        print(f"{method:<18}" + "".join(f"{_mean_deviation(cell):>16}" for cell in cells))
    if args.json:
        rows = [{"method": m, "rho": r, "accuracies": a} for (m, r), a in found.items()]
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.plot:
        plot(found, args.rhos, args.methods, args.plot)


def plot(
    found: dict[tuple[str, float], list[float]], rhos: list[float], methods: list[str], path: Path
) -> None:
    """Draws accuracy by correlation, a line a method, a dot a seed."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    places = range(len(rhos))
    for i, method in enumerate(methods):
        cells = [found[method, rho] for rho in rhos]
        (line,) = axes.plot(places, [100 * statistics.mean(c) for c in cells], label=method)
        for place, cell in zip(places, cells, strict=True):
            x = [place + 0.03 * (i - len(methods) / 2)] * len(cell)
            axes.plot(x, [100 * a for a in cell], ".", color=line.get_color())
    axes.set_xticks(list(places), [str(rho) for rho in rhos])
    axes.set_xlabel("share of training pictures whose colour is that of their class")
    axes.set_ylabel("accuracy on unbiased pictures, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _mean_deviation(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.1f} +- {100 * deviation:.1f}"


if __name__ == "__main__":
    main()
