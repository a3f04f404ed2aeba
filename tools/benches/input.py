"""Input: images per second from JPEG to batches, by threads and processes, against a torch DataLoader.

Both get the same bytes, sizes and operations: decode, resize to a square, range; captions to tokens. The images
are crops of the two photographs that scikit-learn ships, from 350 to 640 pixels wide. The number of chips that a
host can feed is its cores times the images per second of one core, over the images per second of one chip.
"""

import argparse
import functools
import io
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from bias_clip.data.image import make_pixel_fn
from bias_clip.data.stream.pipeline import make_train_iterator
from bias_clip.data.text import make_text_fn

PEERS = ("torch", "torchvision", "open_clip")
COUNT = 512  # photographs, kept in memory, as a page cache would
WORDS = "a photo of the old temple and a red flower by the water in spring".split()


class Photos:
    """JPEGs with a caption each, as a source."""

    def __init__(self, quality: int = 90):
        """Crops and encodes the photographs."""
        from sklearn.datasets import load_sample_image

        whole = [Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")]
        rng = np.random.default_rng(0)
        self.jpegs, self.captions = [], []
        for i in range(COUNT):
            image = whole[i % 2]
            width, height = int(rng.integers(350, 641)), int(rng.integers(260, 428))
            left = int(rng.integers(image.width - width + 1))
            top = int(rng.integers(image.height - height + 1))
            buffer = io.BytesIO()
            image.crop((left, top, left + width, top + height)).save(
                buffer, "JPEG", quality=quality
            )
            self.jpegs.append(buffer.getvalue())
            self.captions.append(" ".join(rng.choice(WORDS, 12)))
        self.columns = {"id": np.array([f"photo/{i}" for i in range(COUNT)])}

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"id": f"photo/{i}", "image": self.jpegs[i], "captions": (self.captions[i],)}


class Contestant(NamedTuple):
    """Endless batches, and the function that closes them."""

    batches: Iterator[Any]
    close: Callable[[], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `bench` reads."""
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5, help="of two batches each, in turns")
    parser.add_argument("--decode", default="decode", help="our first operation")
    parser.add_argument("--alone", action="store_true", help="without torch")


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Measures all contestants in turns and prints; returns images per second by contestant."""
    missing = [name for name in PEERS if find_spec(name) is None]
    if missing and not args.alone:
        print(f"without {', '.join(missing)}: ours alone")
    photos = Photos()
    makers: dict[str, Callable[[], Contestant]] = {}
    for number in args.threads:
        makers[f"ours, {number} threads"] = functools.partial(_ours, photos, args, number, 0)
        makers[f"ours, {number} processes"] = functools.partial(_ours, photos, args, 1, number)
        if not (args.alone or missing):
            makers[f"torch, {number} workers"] = functools.partial(_torch, photos, args, number)
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(args.rounds):
        for name, make in makers.items():
            seconds[name].append(_time(make()))
    result = {name: 2 * args.batch / statistics.median(times) for name, times in seconds.items()}
    kilobytes = statistics.mean(map(len, photos.jpegs)) / 1e3
    print(
        f"{COUNT} JPEGs of {kilobytes:.0f} kB on average, to {args.size} px, batches of {args.batch}"
    )
    for name, speed in result.items():
        number = int(name.split()[1])
        print(f"{name:20} {speed:8.0f} images/s  {speed / number:6.0f} each")
    return result


def _time(contestant: Contestant) -> float:
    """Seconds for two batches, after the first ones."""
    for _ in range(4):  # batches that were prefetched before the clock started do not count
        next(contestant.batches)
    start = time.perf_counter()
    for _ in range(2):
        next(contestant.batches)
    passed = time.perf_counter() - start
    contestant.close()
    return passed


def _ours(photos: Photos, args: argparse.Namespace, threads: int, workers: int) -> Contestant:
    iterator = make_train_iterator(
        photos,
        image_fn=make_pixel_fn(
            f"{args.decode}|background(white)|resize({args.size})|value_range(-1,1)"
        )[0],
        text_fn=make_text_fn(tokenizer="emoji", length=64),
        batch_size=args.batch,
        seed=0,
        num_threads=threads,
        num_workers=workers,
        prefetch=1,
    )
    return Contestant(iterator, iterator.close)


def _torch(photos: Photos, args: argparse.Namespace, workers: int) -> Contestant:
    """Like open_clip's loader: Pillow and torchvision in processes, its own BPE for the captions."""
    import open_clip
    import torch
    from torchvision import transforms

    tokenize = open_clip.get_tokenizer("ViT-B-16", context_length=64)
    prepare = transforms.Compose(
        [
            transforms.Resize(
                (args.size, args.size), interpolation=transforms.InterpolationMode.BILINEAR
            ),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )

    class Data(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            i = 0
            while True:
                image = Image.open(io.BytesIO(photos.jpegs[i % COUNT])).convert("RGB")
                yield prepare(image), tokenize(photos.captions[i % COUNT])[0]
                i += 1

    loader = torch.utils.data.DataLoader(Data(), batch_size=args.batch, num_workers=workers)
    batches = iter(loader)

    def close() -> None:
        batches._shutdown_workers()

    return Contestant(batches, close)
