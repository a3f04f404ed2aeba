"""Epsilon-SupInfoNCE and FairKL on digits whose background reveals the class: does the model use it?

python -m tools.experiments.biased_digits [--seeds 3] [--jobs 2] [--json FILE] [--plot docs/biased_digits.png]

The protocol of Biased-MNIST on the handwritten digits that scikit-learn ships (1,797 images of 8 x 8,
from the UCI repository). Each training digit gives `--copies` images, shifted by up to one pixel. The
background of an image has the colour of its class with probability rho, else one of the nine others. In the
test, which shows other digits, all colours are equally likely. Each loss trains an encoder with these colours
as bias labels. At the same time a linear layer learns the classes from the detached embeddings (Barbano et al.
2023, as in their code; here the last accuracy counts, not the best).

Needs `pip install -e ".[experiments]"`. It is also the shortest example of our losses in a plain optax loop: see `train_one`.
"""

import argparse
import itertools
import json
import multiprocessing
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from bias_clip.cli.shared.flags import Parser
from bias_clip.losses import eps_supinfonce_loss, fairkl, supcon_loss, weighted_mean

Run = tuple[int, float, str]  # seed, rho, method

RHOS = (0.999, 0.997, 0.995, 0.99)
CLASSES, TEMPERATURE, EPSILON = 10, 0.1, 0.5
WIDTHS = (3, 8, 16, 32, 64)  # of the encoder; half that of the protocol
TEST_SHARE = 0.3


def cross_entropy(z: Any, logits: Any, labels: Any, bias: Any) -> Any:
    """The baseline: the loss of the linear layer, here with its gradient into the encoder."""
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
    """Training images and labels, test images and labels: grey, in [0, 1], split by the seed."""
    from sklearn import datasets

    digits = datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    cut = int(TEST_SHARE * len(order))
    images, labels = digits.images[order] / 16.0, digits.target[order]
    return images[cut:], labels[cut:], images[:cut], labels[:cut]


def colours() -> np.ndarray:
    """Ten clearly different colours, one per class, [10, 3]."""
    grid = np.array([[r, g, b] for r in (0, 0.5, 1) for g in (0, 0.5, 1) for b in (0, 0.5, 1)])
    return grid[[2, 6, 18, 8, 20, 24, 4, 10, 12, 22]]


def draw_colours(labels: np.ndarray, rho: float, random: np.random.Generator) -> np.ndarray:
    """The colour of each image: that of its class with probability rho, else another one."""
    other = (labels + random.integers(1, CLASSES, len(labels))) % CLASSES
    return np.where(random.random(len(labels)) < rho, labels, other)


def paint(images: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """White digits on a coloured background: [n, 8, 8, 3]."""
    ink = images[..., None]
    return (ink + (1 - ink) * colours()[colour][:, None, None, :]).astype(np.float32)


def move(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each image moved by up to a pixel."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    y, x = random.integers(0, 3, (2, len(images)))
    rows, columns = np.arange(8)[None, :, None], np.arange(8)[None, None, :]
    at = np.arange(len(images))[:, None, None]
    return padded[at, rows + y[:, None, None], columns + x[:, None, None]]


def init(key: jax.Array) -> dict[str, jax.Array]:
    """Four convolutions with batch normalisation, and the linear layer that is evaluated.

    The encoder of the protocol at half its width, with kernels of 3 for images of 8 x 8.
    """
    make = jax.nn.initializers.he_normal()
    params = {}
    for i, (inner, outer) in enumerate(itertools.pairwise(WIDTHS)):
        key, own = jax.random.split(key)
        params[f"conv{i}"] = make(own, (9 * inner, outer))
        params[f"gain{i}"], params[f"shift{i}"] = jnp.ones(outer), jnp.zeros(outer)
    return params | {"linear": make(key, (WIDTHS[-1], CLASSES))}


def encode(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Unit-norm embeddings [b, 64] of images [b, 8, 8, 3]; normalises over the batch."""
    for i, stride in enumerate((1, 2, 1, 2)):
        x = neighbours(x, stride) @ params[f"conv{i}"]
        centred = x - x.mean((0, 1, 2))
        x = centred * jax.lax.rsqrt((centred**2).mean((0, 1, 2)) + 1e-5)
        x = jax.nn.relu(x * params[f"gain{i}"] + params[f"shift{i}"])
    x = x.mean((1, 2))
    return x / jnp.sqrt(jnp.sum(x * x, axis=1, keepdims=True) + 1e-6)


def neighbours(x: jax.Array, stride: int) -> jax.Array:
    """The 3 x 3 patch around each pixel as channels; a product with them is a faster convolution."""
    size, before = x.shape[1] // stride, 1 if stride == 1 else 0
    x = jnp.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)))
    at = [slice(i, i + stride * (size - 1) + 1, stride) for i in range(3)]
    return jnp.concatenate([x[:, rows, columns] for rows in at for columns in at], axis=-1)


def train_one(loss: Callable[..., Any], rho: float, seed: int, args: argparse.Namespace) -> float:
    """Returns the accuracy on unbiased test images after training with a loss."""
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
    shown = np.repeat(test_images, CLASSES, axis=0)  # in every colour, as one batch
    x = jnp.asarray(paint(shown, np.tile(np.arange(CLASSES), len(test_images))))
    guess = np.argmax(encode(params, x) @ params["linear"], axis=1)
    return float(np.mean(guess == np.repeat(test_labels, CLASSES)))


def main() -> None:
    """Trains every method at every correlation with every seed; prints a table."""
    args = make_parser().parse_args()
    runs = [(s, r, m) for s in range(args.seeds) for r in args.rhos for m in args.methods]
    try:
        found = train_all(runs, args)
    except ValueError as error:
        sys.exit(f"error: {error}")
    cells = {(m, r): [found[s, r, m] for s in range(args.seeds)] for _, r, m in runs}
    print("\n".join(table(cells, args.rhos, args.methods)))
    if args.plot:
        plot(cells, args.rhos, args.methods, args.plot)


def make_parser() -> Parser:
    """Returns the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--rhos", type=float, nargs="+", default=list(RHOS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument(
        "--json", type=Path, help="keeps the accuracies; runs in it are not repeated"
    )
    parser.add_argument("--plot", type=Path, help="also draw them here")
    return parser


def train_all(runs: list[Run], args: argparse.Namespace) -> dict[Run, float]:
    """Returns the accuracy of every run, including those in `args.json`; adds the others to it.

    Raises:
      ValueError: the file is of other epochs, batches or copies.
    """
    settings = {name: getattr(args, name) for name in ("epochs", "batch", "copies")}
    found: dict[Run, float] = {}
    if args.json and args.json.exists():
        kept = json.loads(args.json.read_text())
        if kept["settings"] != settings:
            raise ValueError(f"{args.json} is of {kept['settings']}, not of {settings}.")
        found = {(row["seed"], row["rho"], row["method"]): row["accuracy"] for row in kept["runs"]}
    left = [run for run in runs if run not in found]
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        done = pool.map(train_run, left, itertools.repeat(args))
        for run, accuracy in zip(left, tqdm(done, total=len(left), unit="run"), strict=True):
            found[run] = accuracy
            if args.json:
                rows = [{"seed": s, "rho": r, "method": m, "accuracy": a}
                        for (s, r, m), a in found.items()]  # fmt: skip
                kept = json.dumps({"settings": settings, "runs": rows}, indent=1)
                args.json.write_text(kept + "\n")
    return found


def train_run(run: Run, args: argparse.Namespace) -> float:
    """Trains one of `train_all`."""
    seed, rho, method = run
    return train_one(METHODS[method], rho, seed, args)


def table(
    cells: dict[tuple[str, float], list[float]], rhos: list[float], methods: list[str]
) -> list[str]:
    """Returns the lines of a Markdown table: means and deviations over seeds, in percent."""
    lines = [f"| correlation | {' | '.join(map(str, rhos))} |", "|---" * (len(rhos) + 1) + "|"]
    for method in methods:
        row = [_mean_deviation(cells[method, rho]) for rho in rhos]
        lines.append(f"| {method} | {' | '.join(row)} |")
    return lines


def plot(
    cells: dict[tuple[str, float], list[float]], rhos: list[float], methods: list[str], path: Path
) -> None:
    """Plots accuracy by correlation, with a line per method and a dot per seed."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    places = range(len(rhos))
    for i, method in enumerate(methods):
        own = [cells[method, rho] for rho in rhos]
        (line,) = axes.plot(places, [100 * statistics.mean(c) for c in own], label=method)
        for place, cell in zip(places, own, strict=True):
            x = [place + 0.03 * (i - len(methods) / 2)] * len(cell)
            axes.plot(x, [100 * a for a in cell], ".", color=line.get_color())
    axes.set_xticks(list(places), [str(rho) for rho in rhos])
    axes.set_xlabel("share of training images whose colour is that of their class")
    axes.set_ylabel("accuracy on unbiased images, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _mean_deviation(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
