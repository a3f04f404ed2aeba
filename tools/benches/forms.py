"""Sources: samples per second from each form of data, beside webdataset, Hugging Face datasets and a slow server.

The same JPEGs and captions lie as tar shards, Parquet, a table with files, a folder and ArrayRecord. "raw" is
one record at random after another, bytes only. "batches" are decoded, resized and tokenized, in one process
without threads; webdataset and datasets go through torch's DataLoader without workers, so this is a rate per
core. Each form is measured in turns. "remote" is the stream over HTTP on this machine, each answer later by
--delay seconds, beside the same stream from the disk.
"""

import argparse
import functools
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bias_clip.data.image import make_pixel_fn
from bias_clip.data.records import Source
from bias_clip.data.sources import make_source
from bias_clip.data.sources.array_record import write_array_record
from bias_clip.data.stream.pipeline import make_train_iterator
from bias_clip.data.text import make_text_fn
from tools.benches.input import Photos

Makers = dict[str, Callable[[], Iterator[Any]]]
PEERS = ("torch", "webdataset", "datasets")
SHARD = 1_000  # samples of a tar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `bench` reads."""
    parser.add_argument("--samples", type=int, default=4_000)
    parser.add_argument("--image", type=int, default=256, help="shorter side of the JPEGs")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds")
    parser.add_argument("--reads", type=int, nargs="+", default=[16, 64], help="threads, remote")
    parser.add_argument("--alone", action="store_true", help="without torch and its readers")


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Measures all forms in turns and prints; returns samples per second by form and kind."""
    missing = [name for name in PEERS if find_spec(name) is None]
    if missing and not args.alone:
        print(f"without {', '.join(missing)}: ours alone")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        kilobytes = write_forms(root, args)
        print(f"{args.samples} JPEGs, {kilobytes:.0f} kB on average")
        sources = {name: make_source(**form) for name, form in forms(root).items()}
        raw: Makers = {name: functools.partial(_raw, source) for name, source in sources.items()}
        batches: Makers = {name: functools.partial(_ours, s, args) for name, s in sources.items()}
        if not (args.alone or missing):
            raw |= peers_raw(root)
            batches |= peers_batches(root, args)
        result: dict[str, Any] = {
            "raw": _in_turns(raw, args.samples // 4, args.rounds),
            "batches": _in_turns(batches, 2 * args.batch, args.rounds),
        }
        for kind, rates in result.items():
            print(f"\n{kind}, samples per second")
            for name, rate in rates.items():
                print(f"{name:24} {rate:8.0f}")
        result["remote"] = remote(root, args)
    return result


def write_forms(root: Path, args: argparse.Namespace) -> float:
    """Writes the pairs in each form; returns the mean size of a JPEG in kB."""
    photos = Photos()
    files = root / "folder"
    files.mkdir()
    rows, sizes = [], []
    for i in range(args.samples):
        photo = Image.open(io.BytesIO(photos.jpegs[i % len(photos)]))
        image = photo.resize((args.image * photo.width // photo.height, args.image))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        (files / f"{i:06d}.jpg").write_bytes(buffer.getvalue())
        (files / f"{i:06d}.txt").write_text(photos.captions[i % len(photos)])
        rows.append({"image": f"{i:06d}.jpg", "caption": photos.captions[i % len(photos)]})
        sizes.append(buffer.tell())
    (root / "pairs.tsv").write_text(
        "image\tcaption\n" + "".join(f"{r['image']}\t{r['caption']}\n" for r in rows)
    )
    _write_tars(root, rows)
    images = [{"bytes": (files / r["image"]).read_bytes(), "path": r["image"]} for r in rows]
    table = pa.table({"image": images, "caption": [row["caption"] for row in rows]})
    for size in (10, SHARD):
        pq.write_table(table, root / f"{size}.parquet", row_group_size=size)
    write_array_record(make_source(**forms(root)["folder"]), root / "pairs.array_record")
    return float(np.mean(sizes)) / 1e3


def _write_tars(root: Path, rows: list[dict[str, str]]) -> None:
    import tarfile

    (root / "tars").mkdir()
    for shard in range(0, len(rows), SHARD):
        with tarfile.open(root / "tars" / f"{shard // SHARD:05d}.tar", "w") as tar:
            for row in rows[shard : shard + SHARD]:
                stem = row["image"].removesuffix(".jpg")
                for name in (f"{stem}.jpg", f"{stem}.txt"):
                    tar.add(root / "folder" / name, name)


def forms(root: Path) -> dict[str, dict[str, Any]]:
    """The arguments of `make_source` for each form."""
    return {
        "webdataset": dict(name="webdataset", path=str(root / "tars" / "*.tar")),
        "parquet, groups of 10": dict(name="parquet", path=str(root / "10.parquet")),
        "parquet, groups of 1000": dict(name="parquet", path=str(root / f"{SHARD}.parquet")),
        "table and files": dict(
            name="table", path=str(root / "pairs.tsv"), root=str(root / "folder")
        ),
        "folder": dict(name="folder", path=str(root / "folder")),
        "array_record": dict(name="array_record", path=str(root / "pairs.array_record")),
    }


def _raw(source: Source) -> Iterator[Any]:
    """Records in a random order."""
    rng = np.random.default_rng(0)
    while True:
        for i in rng.permutation(len(source)).tolist():
            yield source[i]


def _stream(source: Source, args: argparse.Namespace, threads: int) -> Any:
    ops = f"decode|resize({args.size}, antialias=True)|value_range(-1,1)"
    return make_train_iterator(
        source,
        image_fn=make_pixel_fn(ops)[0],
        text_fn=make_text_fn(tokenizer="emoji", length=64),
        batch_size=args.batch,
        seed=0,
        num_threads=threads,
        prefetch=2 if threads else 1,
    )


def _ours(source: Source, args: argparse.Namespace) -> Iterator[Any]:
    for batch in _stream(source, args, 0):
        yield from range(len(batch["image"]))


def peers_raw(root: Path) -> Makers:
    """webdataset in the order of the shards, datasets at random, both without decoding."""
    import datasets
    import webdataset

    tars = [str(path) for path in sorted((root / "tars").glob("*.tar"))]
    table = datasets.Dataset.from_parquet(
        str(root / f"{SHARD}.parquet"), cache_dir=str(root / "cache")
    ).cast_column("image", datasets.Image(decode=False))

    def shards() -> Iterator[Any]:
        data = webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(1000)
        return itertools.chain.from_iterable(itertools.repeat(data))

    return {
        "webdataset's reader": shards,
        "datasets, at random": functools.partial(_raw, table),
    }


def peers_batches(root: Path, args: argparse.Namespace) -> Makers:
    """Both readers through torch's DataLoader, with our tokenizer.

    Images take the steps of torchvision's Resize, ToTensor and Normalize, written out: these resize with
    PIL too, and a torchvision that does not fit its torch cannot be imported.
    """
    import datasets
    import torch
    import webdataset

    def pixels(image: Image.Image) -> Any:
        resized = image.resize((args.size, args.size), Image.Resampling.BILINEAR)
        whole = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()
        return whole.float().div_(255).sub_(0.5).div_(0.5)

    tokenize = make_text_fn(tokenizer="emoji", length=64)

    def prepare(image: bytes, caption: str) -> tuple[Any, Any]:
        decoded = Image.open(io.BytesIO(image)).convert("RGB")
        return pixels(decoded), torch.from_numpy(np.asarray(tokenize(caption)))

    def tar_sample(sample: Mapping[str, Any]) -> tuple[Any, Any]:
        return prepare(sample["jpg"], sample["txt"].decode())

    def rows(batch: Mapping[str, Any]) -> dict[str, Any]:
        made = [
            prepare(image["bytes"], caption)
            for image, caption in zip(batch["image"], batch["caption"], strict=True)
        ]
        return {"image": [a for a, _ in made], "text": [b for _, b in made]}

    tars = [str(path) for path in sorted((root / "tars").glob("*.tar"))]
    table = (
        datasets.Dataset.from_parquet(str(root / f"{SHARD}.parquet"), cache_dir=str(root / "cache"))
        .cast_column("image", datasets.Image(decode=False))
        .with_transform(rows)
    )

    def loader(data: Any, **arguments: Any) -> Iterator[Any]:
        while True:
            for batch in torch.utils.data.DataLoader(data, batch_size=args.batch, **arguments):
                yield from range(args.batch if batch is not None else 0)

    shards = webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(1000).map(tar_sample)
    return {
        "webdataset, DataLoader": functools.partial(loader, shards),
        "datasets, DataLoader": functools.partial(loader, table, shuffle=True),
    }


def _in_turns(
    makers: Mapping[str, Callable[[], Iterator[Any]]], count: int, rounds: int
) -> dict[str, float]:
    """Samples per second, the median over rounds; the first samples warm up and are not timed."""
    running = {name: make() for name, make in makers.items()}
    for iterator in running.values():
        _take(iterator, count)
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, iterator in running.items():
            seconds[name].append(_take(iterator, count))
    return {name: count / statistics.median(times) for name, times in seconds.items()}


def _take(iterator: Iterator[Any], count: int) -> float:
    start = time.perf_counter()
    for _ in itertools.islice(iterator, count):
        pass
    return time.perf_counter() - start


def remote(root: Path, args: argparse.Namespace) -> dict[str, float]:
    """Images per second of the stream from tars, on disk and on a server that answers late."""
    from tests.data.sources.range_server import running

    def rate(source: Source, threads: int) -> float:
        with _stream(source, args, threads) as stream:
            _take(stream, 4)
            steps = max(4, args.samples // args.batch // 2)
            return steps * args.batch / _take(stream, steps)

    result: dict[str, float] = {}
    print("\ntars, stream of batches, images per second")
    with running(root / "tars", delay=args.delay) as address:
        names = [f"{address}/{path.name}" for path in sorted((root / "tars").glob("*.tar"))]
        far = make_source(name="webdataset", path=names, cache=str(root / "index"))
        near = make_source(**forms(root)["webdataset"])
        for threads in args.reads:
            result[f"disk, {threads} threads"] = here = rate(near, threads)
            result[f"server, {threads} threads"] = there = rate(far, threads)
            print(
                f"{threads} threads: disk {here:.0f}, server {there:.0f}, ratio {there / here:.2f}"
            )
    return result
