"""Build the embedded emoji data set from the public packages that it consists of.

    python -m tools.emoji_pack.build --packages DIR            # DIR holds the unpacked packages
    python -m tools.emoji_pack.build --packages DIR --fetch    # let npm install them there first
    python -m tools.emoji_pack.build --packages DIR --check    # build aside and compare byte for byte

Writes `bias_clip/data/emoji/pack/`: `entries.tsv.xz` (one row an emoji, sorted so that near-duplicate
drawings are neighbours), `images.tsv.xz` (one row a drawing, in the order of the image files), one
image file a style, `names_<language>.tsv.xz`, `emoji.model` and `manifest.json`. The same packages,
tool versions and command give the same bytes; the manifest holds the versions and the hashes.
Needs: pip install resvg_py pillow numpy sentencepiece.
"""

import argparse
import hashlib
import io
import json
import lzma
import pathlib
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import sentencepiece
from PIL import Image, features

from bias_clip.data.emoji import captions as emoji_captions
from bias_clip.data.emoji import source as emoji
from tools.emoji_pack import packages as emoji_packages
from tools.emoji_pack.packages import Drawing

PRESET = 9 | lzma.PRESET_EXTREME  # 64 MiB window: a whole style, so genders and tones match up
# Method 6 is 2% smaller and 50 times slower.
WEBP: dict[str, Any] = {"format": "WEBP", "quality": 80, "method": 4}
TWIN_DISTANCE = 2.0  # of 255, mean over a image on white: two drawings no eye can tell apart
VOCABULARY = 2000


def main() -> None:
    """Parse the command line, then build, or build aside and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--packages", type=pathlib.Path, required=True, help="folder of packages")
    parser.add_argument("--out", type=pathlib.Path, default=emoji.PACK, help="folder to write")
    parser.add_argument("--fetch", action="store_true", help="run npm install there first")
    parser.add_argument("--check", action="store_true", help="compare with --out, write nothing")
    args = parser.parse_args()
    if args.fetch:
        fetch_packages(args.packages)
    modules = args.packages / "node_modules"
    packages = modules if modules.is_dir() else args.packages
    check_packages(packages)
    if not args.check:
        build(packages, args.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        build(packages, pathlib.Path(folder))
        differing = differing_files(pathlib.Path(folder), args.out)
    if differing:
        raise SystemExit(
            f"not the same bytes: {', '.join(differing)}; compare built_with in manifest.json"
        )
    print("same bytes")


def build(packages: pathlib.Path, out: pathlib.Path) -> None:
    """Write the whole pack into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    entries = emoji_packages.read_entries(packages)
    drawings = {s: list(emoji_packages.draw(s, entries, packages)) for s in emoji.STYLES}
    same = number_images(drawings)
    rows = [(style, drawing) for style in drawings for drawing in drawings[style]]
    families = join_concepts([entries[d.entry]["concept"] for _, d in rows], same)
    for entry in entries:
        entry["family"] = families[entry["concept"]]
    write_table(out / "entries.tsv.xz", entries)
    images = [
        {"style": s, "entry": d.entry, "same": n} for (s, d), n in zip(rows, same, strict=True)
    ]
    write_table(out / "images.tsv.xz", images)
    for style, of_style in drawings.items():
        pack_images(out, style, [drawing.pixels for drawing in of_style])
    names = {x: emoji_packages.read_names(packages, x, entries) for x in emoji.LANGUAGES[1:]}
    for language, table in names.items():
        write_table(out / f"names_{language}.tsv.xz", table)
    (out / "emoji.model").write_bytes(train_tokenizer(emoji_captions.corpus(entries, names)))
    write_manifest(out)


def fetch_packages(folder: pathlib.Path) -> None:
    """Let npm install the pinned versions in a folder, without running any of their scripts."""
    wanted = [f"{name}@{number}" for name, number in emoji_packages.PACKAGES.items()]
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--prefix", str(folder)]
    subprocess.run(["npm", "install", *flags, *wanted], check=True)


def check_packages(packages: pathlib.Path) -> None:
    """Raise ValueError unless every package is there in its pinned version."""
    for name, number in emoji_packages.PACKAGES.items():
        path = packages / name / "package.json"
        found = json.loads(path.read_text())["version"] if path.exists() else "nothing"
        if found != number:
            raise ValueError(f"{path}: found {found}, expected {name}@{number}; run with --fetch")


def number_images(drawings: Mapping[str, Sequence[Drawing]]) -> list[int]:
    """A number for each drawing, in order; equal for images that are the same to the eye.

    Pixel-identical images of whatever emoji, and images of one emoji that lie closer than
    TWIN_DISTANCE in two styles, share a number.
    """
    numbers: dict[bytes, int] = {}
    seen: dict[int, list[tuple[int, np.ndarray]]] = {}
    same: list[int] = []
    for of_style in drawings.values():
        for drawing in of_style:
            key = hashlib.sha256(drawing.pixels.tobytes()).digest()
            view = on_white(drawing.pixels)
            others = seen.setdefault(drawing.entry, [])
            twins = [n for n, v in others if np.abs(v - view).mean() < TWIN_DISTANCE]
            number = numbers.setdefault(key, twins[0] if twins else len(same))
            others.append((number, view))
            same.append(number)
    return same


def on_white(pixels: np.ndarray) -> np.ndarray:
    """The colours [SIZE, SIZE, 3] that one sees on a white page, float32 in 0..255."""
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return pixels[..., :3] * alpha + 255 * (1 - alpha)


def join_concepts(concepts: Sequence[str], same: Sequence[int]) -> dict[str, str]:
    """From concept to family: concepts that share a image in some style are one family."""
    family = {concept: concept for concept in concepts}
    first: dict[int, str] = {}
    for concept, number in zip(concepts, same, strict=True):
        pair = {family[concept], family[first.setdefault(number, concept)]}
        if len(pair) > 1:
            family = {c: min(pair) if f in pair else f for c, f in family.items()}
    return family


def pack_images(out: pathlib.Path, style: str, images: Sequence[np.ndarray]) -> None:
    """One file of all images of a style, in the form of `emoji.IMAGE_FILES`."""
    path = out / emoji.IMAGE_FILES[style]
    stack = np.stack(images)
    if style == "fluent-3d":  # shaded: WebP is a fifth of what xz makes of it
        path.write_bytes(join_blobs([encode_webp(image) for image in images]))
        return
    if style == "fluent-hc":  # black: alpha is all there is
        if stack[..., :3].any():
            raise ValueError(
                "fluent-hc: found colours, expected black drawings; store all channels"
            )
        stack = stack[..., 3]
    path.write_bytes(lzma.compress(stack.tobytes(), preset=PRESET))


def encode_webp(pixels: np.ndarray) -> bytes:
    """A image as WebP: lossy colours, exact alpha."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **WEBP)
    return buffer.getvalue()


def join_blobs(blobs: Sequence[bytes]) -> bytes:
    """The number of blobs and the end of each, as little-endian uint32, then the blobs."""
    ends = np.cumsum([len(blob) for blob in blobs])
    return np.asarray([len(blobs), *ends], "<u4").tobytes() + b"".join(blobs)


def write_table(path: pathlib.Path, rows: Sequence[Mapping]) -> None:
    """Tab-separated text with a header line, compressed."""
    lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    path.write_bytes(lzma.compress(("\n".join(lines) + "\n").encode(), preset=PRESET))


def train_tokenizer(captions: Iterable[str]) -> bytes:
    """A SentencePiece unigram model, with the special pieces where the SigLIP rule wants them."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=buffer,
        model_type="unigram",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,  # the sums, and so the pieces, depend on the order of threads
        minloglevel=2,
    )
    return buffer.getvalue()


def write_manifest(out: pathlib.Path) -> None:
    """What the pack was built from and with, and the SHA-256 of every file."""
    files = {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(out.iterdir())
        if path.name != "manifest.json"
    }
    tools = {name: version(name) for name in ("resvg_py", "pillow", "sentencepiece")}
    built_with = {**tools, "libwebp": features.version("webp")}
    manifest = {"packages": emoji_packages.PACKAGES, "built_with": built_with, "files": files}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def differing_files(one: pathlib.Path, other: pathlib.Path) -> list[str]:
    """Names of the files that are not byte for byte the same in two folders, manifest left out."""
    names = {path.name for folder in (one, other) for path in folder.iterdir()} - {"manifest.json"}
    return [
        name
        for name in sorted(names)
        if not ((one / name).exists() and (other / name).exists())
        or (one / name).read_bytes() != (other / name).read_bytes()
    ]


if __name__ == "__main__":
    main()
