"""Measures the bias of each estimator of priors, on mixtures whose classes are known.

python -m tools.bench priors
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from bias_clip.curation.priors import copy_priors, neighbour_priors
from bias_clip.data.stream.columns import shares
from bias_clip.data.tables import write_table
from bias_clip.data.tables.embeddings import open_embeddings
from bias_clip.data.tables.embeddings_writer import Shard, write_embeddings


def mixture(rows: int, classes: int, noise: float, *, width: int = 64, seed: int = 0):
    """Classes of Zipf frequencies, and unit vectors around a random centre for each."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, classes + 1)
    label = rng.choice(classes, rows, p=frequency / frequency.sum())
    centres = rng.normal(size=(classes, width))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    z = centres[label] + noise * rng.normal(size=(rows, width)) / np.sqrt(width)
    return label, (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


def estimates(label: np.ndarray, z: np.ndarray, classes: int, folder: Path, seed: int = 0) -> dict:
    """Each estimator's priors."""
    from sklearn.cluster import KMeans  # an oracle's k-means: as good as clusters get

    rng, rows = np.random.default_rng(seed), len(label)
    ids = np.asarray([f"r{i}" for i in range(rows)])
    write_embeddings(
        folder / "z",
        lambda some: Shard(ids[some].tolist(), {"text": z[some]}, {}),
        examples=rows,
        about={"of": "a mixture"},
    )
    found = {
        "labels": shares(label),
        "labels, half are missing": shares(np.where(rng.random(rows) < 0.5, label, -1)),
    }
    for k in (classes // 4, classes, 4 * classes):
        cells = KMeans(k, n_init=1, random_state=seed).fit_predict(z)
        found[f"clusters, k = {k}"] = shares(cells)
    embeddings = open_embeddings(folder / "z")
    for threshold in (0.3, 0.5, 0.7):
        found[f"neighbours, {threshold}"] = neighbour_priors(embeddings, threshold=threshold)[
            "prior"
        ]
    copies = 1 + rng.binomial(np.bincount(label)[label] - 1, 0.05)  # one in twenty is a copy
    write_table(folder / "q", {"id": ids, "near_copies": copies}, {"kind": "measures"})
    found["copies, 5 % of a class"] = copy_priors(folder / "q")["prior"]
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this bench's arguments."""
    parser.add_argument("--rows", type=int, default=10_000, help="examples of a mixture")
    parser.add_argument("--classes", type=int, default=40, help="with Zipf's frequencies")


def bench(args: argparse.Namespace) -> list[dict]:
    """Prints a line per estimator and mixture, and returns the numbers."""
    record = []
    for noise in (0.6, 1.2):
        label, z = mixture(args.rows, args.classes, noise)
        truth = shares(label).astype(float)
        print(f"noise {noise}: mean prior {truth.mean():.4f}, of {args.classes} classes")
        print(f"{'':<28}{'mean':>9}{'bias':>9}{'rms':>9}{'correlation':>13}")
        with tempfile.TemporaryDirectory() as folder:
            for name, prior in estimates(label, z, args.classes, Path(folder)).items():
                error = prior - truth
                row = {
                    "noise": noise,
                    "estimator": name,
                    "mean": float(prior.mean()),
                    "bias": float(error.mean()),
                    "rms": float(np.sqrt((error**2).mean())),
                    "correlation": float(np.corrcoef(prior, truth)[0, 1]),
                }
                record.append(row)
                print(
                    f"{name:<28}{row['mean']:>9.4f}{row['bias']:>+9.4f}{row['rms']:>9.4f}"
                    f"{row['correlation']:>13.3f}"
                )
    return record
