"""A workdir as a training run leaves it, without the training: curves of real shape, drawn images."""

import base64
import colorsys
import io
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

OCCUPATIONS = [
    "artist",
    "astronaut",
    "breast-feeding",
    "construction_worker",
    "cook",
    "detective",
    "factory_worker",
    "farmer",
    "firefighter",
    "guard",
    "health_worker",
    "in_tuxedo",
    "judge",
    "mechanic",
    "ninja",
    "office_worker",
    "pilot",
    "police_officer",
    "prince",
    "scientist",
    "singer",
    "student",
    "teacher",
    "technologist",
    "wearing_turban",
    "with_crown",
    "with_headscarf",
    "with_skullcap",
    "with_veil",
]
THINGS = [
    "red apple",
    "hot beverage",
    "grinning cat with smiling eyes",
    "woman astronaut: medium-dark skin tone",
    "clockwise vertical arrows",
    "flag in hole",
    "ear of corn",
    "man firefighter",
    "night with stars",
    "person in steamy room: light skin tone",
    "speech balloon",
    "spouting whale",
]


def make_workdir(folder: Path, *, steps: int = 2_340, every: int = 20) -> Path:
    """A workdir as the training loop leaves it, with curves of the shape that real ones have."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    (folder / "evals").mkdir()
    (folder / "config.json").write_text(json.dumps(_config(steps)))
    (folder / "run.json").write_text(json.dumps(_info(folder.name, steps)))
    records = [_record(step, steps, rng) for step in range(every, steps + 1, every)]
    for quarter in range(1, 5):
        records.append({"step": steps * quarter // 4} | _eval_curves(quarter / 4))
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    for name, details in _details(rng).items():
        metrics = {
            key.split("/")[2]: value
            for key, value in _eval_curves(1.0).items()
            if key.split("/")[1] == name
        }
        record = {"step": steps, "metrics": metrics, "details": details}
        (folder / "evals" / f"{name}.json").write_text(json.dumps(record))
    return folder


def _config(steps: int) -> dict:
    return {
        "seed": 0,
        "total": f"{steps} steps",
        "batch_size": 256,
        "data": {
            "source": {"name": "emoji", "split": "train", "unit": "entry"},
            "image": "decode|background(white)|resize(48)|value_range(-1,1)",
            "text": {"tokenizer": "emoji", "length": 16},
        },
        "model": {
            "image": {"variant": "Ti/8", "image_size": 48, "pool": "map"},
            "scale_init": 10.0,
            "bias_init": -10.0,
        },
        "objective": {"sigmoid": {"coef": 1.0, "chunk_size": None}},
        "optimizer": {"name": "adamw", "lr": 1e-3, "decay": [["kernel$", 1.0]], "freeze": []},
        "evals": {"style_zeroshot": {"type": "zeroshot", "split": "style"}},
    }


def _info(name: str, steps: int) -> dict:
    return {
        "command": f"python -m bias_clip.train --config=configs/emoji.py --workdir=runs/{name}",
        "started": "2025-11-23T01:02:03+00:00",
        "versions": {"bias_clip": "0.1.0", "python": "3.11.2", "jax": "0.10.2", "numpy": "2.2.6"},
        "devices": "1 x cpu",
        "parameters": 3_412_609,
        "total_steps": steps,
    }


def _record(step: int, steps: int, rng: np.random.Generator) -> dict:
    t = step / steps
    noise = rng.normal(size=6)
    lr = 1e-3 * min(1.0, t / 0.1) * 0.5 * (1 + math.cos(math.pi * max(0.0, t - 0.1) / 0.9))
    return {
        "step": step,
        "examples": 256 * step,
        "seconds": 598.0 * t + 9,
        "train/loss": 9.2 * math.exp(-9 * t) + 1.1 - 0.8 * t**0.5 + 0.05 * noise[0],
        "train/scale": 10 + 13 * t**0.7,
        "train/bias": -10 - 2.1 * t**0.5,
        "train/logit_pos": -8 + 9 * t**0.4 + 0.2 * noise[1],
        "train/logit_neg": -9 - 3 * t**0.6 + 0.1 * noise[2],
        "train/logit_pos_min": -12 + 4 * t**0.4 + 0.8 * noise[4],
        "train/logit_neg_max": -7 + 7 * t**0.4 + 0.5 * noise[5],
        "train/term_sigmoid": 1.0,
        "train/param_norm": 60 + 20 * t,
        "mfu": 0.41 + 0.01 * noise[1],
        "train/acc_img": min(1.0, max(0.0, 0.62 * t**0.6 + 0.02 * noise[3])),
        "train/acc_txt": min(1.0, max(0.0, 0.58 * t**0.6 + 0.02 * noise[4])),
        "train/grad_norm": 3 * math.exp(-4 * t) + 0.5 + 0.1 * abs(noise[5]),
        "lr": lr,
        "examples_per_second": 1010 + 30 * noise[1] - (300 if step < 100 else 0),
        "input_wait": 0.006 + 0.002 * abs(noise[2]),
    }


def _eval_curves(t: float) -> dict:
    curves = {}
    for name, best in (("style_zeroshot", 0.17), ("concepts_zeroshot", 0.04)):
        curves |= {
            f"eval/{name}/acc1": best * t**0.7,
            f"eval/{name}/acc5": 2.6 * best * t**0.6,
            f"eval/{name}/class_recall": 0.97 * best * t**0.7,
            f"eval/{name}/chance": 1 / 3944,
            f"eval/{name}/classes": 3944.0,
            f"eval/{name}/images": 3210.0,
        }
    for way, best in (("i2t", 0.16), ("t2i", 0.19)):
        for k in (1, 5, 10):
            curves[f"eval/style_retrieval/{way}_r{k}"] = best * k**0.55 * t**0.7
            curves[f"eval/style_retrieval/{way}_r{k}_chance"] = k / 3210
    for key, value in {"loss": 3.0 - 1.2 * t, "acc_img": 0.6 * t, "acc_txt": 0.62 * t}.items():
        curves[f"eval/style_contrastive/{key}"] = value
    for name, target in (("bias_gender", 0.63), ("bias_tone", 0.31)):
        preference = 0.5 + (target - 0.5) * t
        curves |= {
            f"eval/{name}/preference": preference,
            f"eval/{name}/preference_low": preference - 0.04,
            f"eval/{name}/preference_high": preference + 0.04,
            f"eval/{name}/preference_plain": 0.5 + 0.2 * t,
            f"eval/{name}/preference_objects": 0.5 + 0.1 * t,
            f"eval/{name}/representation": abs(preference - 0.5),
            f"eval/{name}/recognition": 0.5 + 0.3 * t,
            f"eval/{name}/association_mean": 0.05 + 0.12 * t,
            f"eval/{name}/association_chance": 0.05 + 0.03 * t,
            f"eval/{name}/association_recall": 0.4 * t,
            f"eval/{name}/association_roles": 29.0,
            f"eval/{name}/pairs_max": math.nan,
        }
    return curves


def _details(rng: np.random.Generator) -> dict:
    def bias(attribute, groups, representation):
        gaps = rng.normal(0.03, 0.14, len(OCCUPATIONS))
        concepts = []
        for name, gap in zip(OCCUPATIONS, gaps, strict=True):
            share = float(np.clip(representation + gap + rng.normal(0, 0.1), 0, 1))
            row = {"name": name.replace("_", " "), "preference": share, "gap": float(gap)}
            row |= {"low": max(0.0, share - 0.15), "high": min(1.0, share + 0.15)}
            concepts.append(row | {"count": int(rng.integers(12, 71))})
        concepts[4] |= {"gap": None}
        concepts[9] |= {"preference": None, "low": None, "high": None}
        return {
            "kind": "bias",
            "attribute": attribute,
            "groups": groups,
            "representation": representation,
            "concepts": concepts,
        }

    return {
        "style_zeroshot": {"kind": "zeroshot", "examples": [_example(i, rng) for i in range(48)]},
        "concepts_zeroshot": {"kind": "zeroshot", "examples": [_example(i, rng) for i in range(6)]},
        "style_retrieval": {"kind": "retrieval", "queries": [_query(i, rng) for i in range(8)]},
        "style_contrastive": {"kind": "contrastive"},
        "bias_gender": bias("gender", ["woman", "man"], 0.63),
        "bias_tone": bias("tone", ["light", "dark"], 0.31),
    }


def _example(index: int, rng: np.random.Generator) -> dict:
    truth = THINGS[index % len(THINGS)]
    others = [name for name in THINGS if name != truth]
    names = list(rng.permutation(others)[:5])
    place = int(rng.integers(0, 9))
    if place < 5:
        names[0 if place < 3 else place] = truth
    scores = np.sort(rng.uniform(0.05, 0.6, 5))[::-1]
    return {
        "png": _png(index),
        "truth": truth,
        "correct": names[0] == truth,
        "top": [{"text": n, "score": float(s)} for n, s in zip(names, scores, strict=True)],
    }


def _query(index: int, rng: np.random.Generator) -> dict:
    hits = rng.random(6) < np.linspace(0.7, 0.1, 6)
    images = [
        {"png": _png(index if hit else index + i + 1), "correct": bool(hit)}
        for i, hit in enumerate(hits)
    ]
    return {"text": THINGS[index % len(THINGS)], "pictures": images}


def _png(index: int) -> str:
    """A 64 x 64 drawing: a shape of one colour on white."""
    image = Image.new("RGB", (64, 64), "white")
    rgb = colorsys.hsv_to_rgb(index * 0.381 % 1, 0.65, 0.9)
    fill = tuple(int(255 * c) for c in rgb)
    draw = ImageDraw.Draw(image)
    shapes = (
        draw.ellipse,
        draw.rectangle,
        lambda box, **kw: draw.regular_polygon((32, 32, 30), 5, **kw),
    )
    shapes[index % 3]((6, 6, 58, 58), fill=fill, outline="#333333")
    stream = io.BytesIO()
    image.save(stream, "png")
    return base64.b64encode(stream.getvalue()).decode()
