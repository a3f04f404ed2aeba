"""A small source of people with a group and a label, and models that know one, both or neither."""

import hashlib
from collections.abc import Sequence

import numpy as np

from bias_clip.evals.audit import AuditModel, Provenance
from bias_clip.evals.ranking import unit

WIDTH = 12
GROUPS, LABELS = ("man", "woman"), ("baker", "guard", "pilot")


class People:
    """Records with an image of 2 x 2 pixels and attributes; ids are p0, p1, ..."""

    def __init__(self, number: int = 120, *, groups: Sequence[str] = GROUPS):
        self.columns = {
            "id": np.array([f"p{i}" for i in range(number)]),
            "group": np.array([groups[i % len(groups)] for i in range(number)]),
            "label": np.array([LABELS[i % 3] for i in range(number)]),
        }

    def __len__(self) -> int:
        return len(self.columns["id"])

    def __getitem__(self, i: int) -> dict:
        own = {name: str(values[i]) for name, values in self.columns.items()}
        image = np.full((2, 2, 3), i % 256, np.uint8)
        return {**own, "image": image, "captions": (f"a {own['label']}, number {i}",)}


def axis(i: int) -> np.ndarray:
    return np.eye(WIDTH)[i]


def person(record: dict, *, bias: float, seed: int) -> np.ndarray:
    """An embedding: its label, its group, and noise of its own."""
    rng = np.random.default_rng([seed, int(record["id"][1:])])
    label, group = LABELS.index(record["label"]), GROUPS.index(record["group"])
    noise = rng.normal(size=WIDTH) * 0.35
    return axis(label) + (2 * group - 1) * 0.8 * axis(4) + noise + bias * 0 * axis(5)


def phrase(text: str, *, bias: float) -> np.ndarray:
    """A text: the label that it names; a guard leans to men and a baker to women, by `bias`."""
    found = 0.05 * axis(7)
    for i, label in enumerate(LABELS):
        found = found + (label in text) * axis(i)
    found = found + bias * (("baker" in text) - 1.0 * ("guard" in text)) * axis(4)
    words = text.replace("woman", "W").split()
    return found + (("W" in words) - 1.0 * ("man" in words)) * axis(4)


def model(name: str = "m", *, bias: float = 0.0, seed: int = 0) -> AuditModel:
    """A model without a cache."""

    def images(source, about):
        return unit(np.stack([person(source[i], bias=bias, seed=seed) for i in range(len(source))]))

    def texts(strings):
        return unit(np.stack([phrase(text, bias=bias) for text in strings]))

    sha256 = {"parameters": hashlib.sha256(f"{name} {bias} {seed}".encode()).hexdigest()}
    provenance = Provenance(f"runs/{name}", "run", "averaged parameters", 94, 12_345, sha256)
    return AuditModel(name, images, texts, {"name": name}, [], provenance)
