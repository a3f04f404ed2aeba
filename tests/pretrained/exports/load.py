"""Loads exported folders with transformers and open_clip, and compares logits, token ids and pixels.

In an environment with torch, transformers, open_clip and sentencepiece, without this package:

    python tests/pretrained/exports/load.py FOLDER
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import torch

# A torchvision made for a torch with CUDA finds none of its operators beside torch for CPUs, and then
# cannot be imported. It needs their names only: detection is not used here.
_lib = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    _lib.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer  # noqa: E402

LOGITS = 1e-5  # relative to the largest
LEVELS = 1.01  # grey levels of 255


def main(root: Path) -> int:
    """Prints a line per folder; returns the exit status."""
    failed = 0
    folders = sorted(path for path in root.iterdir() if (path / "ours.npz").exists())
    for folder in folders:
        ours = np.load(folder / "ours.npz")
        check = _hugging_face if str(ours["layout"]) == "hugging_face" else _open_clip
        with torch.no_grad():
            found = check(str(folder), ours)
        good = (
            found["logits"] <= LOGITS and not found.get("ids") and found.get("levels", 0) <= LEVELS
        )
        failed += not good
        said = ", ".join(f"{name} {value:.2g}" for name, value in found.items())
        print(f"{'passed' if good else 'FAILED'} {folder.name}: {said}")
    print(f"{len(folders) - failed} passed, {failed} failed")
    return int(failed > 0 or not folders)


def _hugging_face(folder, ours):
    model = AutoModel.from_pretrained(folder).eval()
    image = torch.tensor(ours["image"].transpose(0, 3, 1, 2))
    text = torch.tensor(ours["text"]).long()
    found = {"logits": _apart(model(pixel_values=image, input_ids=text).logits_per_image, ours)}
    if "captions" not in ours:
        return found
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = dict(padding="max_length", truncation=True, return_tensors="np")
    ids = tokenizer(_captions(ours), max_length=ours["text"].shape[1], **words)["input_ids"]
    process = AutoImageProcessor.from_pretrained(folder)
    pixels = [process(photo, return_tensors="np")["pixel_values"][0] for photo in _photos(ours)]
    both = AutoProcessor.from_pretrained(folder)
    again = both(text=_captions(ours), max_length=ours["text"].shape[1], **words)["input_ids"]
    assert np.array_equal(again, ids), "the processor reads texts as its tokenizer does not"
    return found | _inputs(ids, pixels, process.image_std, ours)


def _open_clip(folder, ours):
    model, _, process = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    image = torch.tensor(ours["image"].transpose(0, 3, 1, 2))
    logits = model.get_logits(image, torch.tensor(ours["text"]).long())[0]
    found = {"logits": _apart(logits, ours)}
    if "captions" not in ours:
        return found
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(_captions(ours)).numpy()
    pixels = [process(photo).numpy() for photo in _photos(ours)]
    return found | _inputs(ids, pixels, process.transforms[-1].std, ours)


def _apart(logits, ours):
    expected = ours["logits"]
    return float(np.abs(logits.numpy() - expected).max() / np.abs(expected).max())


def _captions(ours):
    return json.loads(ours["captions"].tobytes())


def _photos(ours):
    names = sorted(
        (name for name in ours.files if name.startswith("photo_")), key=lambda n: int(n[6:])
    )
    return [Image.open(io.BytesIO(ours[name].tobytes())).convert("RGB") for name in names]


def _inputs(ids, pixels, std, ours):
    """How many captions have other ids; the largest difference of pixels in grey levels."""
    other = float((ids != ours["text"]).any(axis=1).sum())
    apart = np.abs(np.stack(pixels).transpose(0, 2, 3, 1) - ours["image"]).max(axis=(0, 1, 2))
    return {"ids": other, "levels": float((apart * np.asarray(std) * 255).max())}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
