"""Scores and resamples a zero-shot suite of the size of ImageNet, from random embeddings.

    python -m tools.bench audit
    python -m tools.bench audit --images 5000 --classes 100

The plain form computes accuracy again on each resample of the images. A few resamples of a part of the
images are timed, and scaled to all of them.
"""

import argparse
import resource
import time
from typing import Any

import numpy as np

from bias_clip.evals.quality.zeroshot import accuracy, class_embeddings
from bias_clip.evals.ranking import unit
from bias_clip.evals.resampling import interval
from bias_clip.evals.suites.families.classified import measure_zeroshot

PLAIN_RESAMPLES = 10
PLAIN_IMAGES = 5000  # the plain form is timed on fewer, because all would take minutes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this bench."""
    parser.add_argument("--images", type=int, default=50_000, help="number of images")
    parser.add_argument("--classes", type=int, default=1000, help="number of classes")
    parser.add_argument("--templates", type=int, default=80, help="templates per class")
    parser.add_argument("--width", type=int, default=512, help="of the embeddings")
    parser.add_argument("--resamples", type=int, default=10_000, help="of the images")


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Times scoring, resamples of images and of templates, and the plain form; prints them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, args.classes, args.images)
    centers = rng.normal(size=(args.classes, args.width)).astype(np.float32)
    images = unit(centers[labels] + 6 * rng.standard_normal((args.images, args.width), np.float32))
    shape = (args.classes, args.templates, args.width)
    prompts = unit(centers[:, None] + 6 * rng.standard_normal(shape, np.float32))
    before = _peak()
    start, processor_start = time.perf_counter(), time.process_time()
    measured = measure_zeroshot(images, prompts, labels)
    scored = time.perf_counter()
    over_images = measured.draw(args.resamples, 0)
    drawn = time.perf_counter()
    assert measured.draw_texts is not None
    over_templates = measured.draw_texts(args.resamples, 0)
    end = time.perf_counter()
    processor = time.process_time() - processor_start
    found = {
        "score_s": scored - start,
        "resample_images_s": drawn - scored,
        "resample_templates_s": end - drawn,
        "total_s": end - start,
        "processor_s": processor,
        "memory_above_inputs_mib": (_peak() - before) / 2**20,
        "table_of_scores_mib": 4 * args.images * args.classes / 2**20,
        "acc1": interval(over_images, "acc1")[:3],
        "acc1_templates": interval(over_templates, "acc1")[1:3],
    }
    found["plain_ratio"] = _plain(images, prompts, labels, args) / found["total_s"]
    for name, value in found.items():
        print(f"{name:<26} {value if isinstance(value, tuple) else round(value, 2)}")
    return found


def _plain(images: Any, prompts: Any, labels: Any, args: argparse.Namespace) -> float:
    """Seconds of accuracy computed again on each resample of the images, scaled to all of them."""
    rng, zcls = np.random.default_rng(0), class_embeddings(prompts)
    n = min(args.images, PLAIN_IMAGES)
    start = time.perf_counter()
    for _ in range(PLAIN_RESAMPLES):
        rows = rng.integers(0, n, n)
        accuracy(images[rows], zcls, labels[rows])
    seconds = time.perf_counter() - start
    return seconds * args.resamples / PLAIN_RESAMPLES * args.images / n


def _peak() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
