"""Small sources and stand-in encoders that several tests share."""

import numpy as np

from bias_clip.evals import Encode
from bias_clip.evals.ranking import unit


class ListSource:
    """Records in a list, with their attributes as columns."""

    def __init__(self, records):
        self.records = list(records)
        names = {k for record in self.records for k in record} - {"image", "captions"}
        self.columns = {name: np.array([r[name] for r in self.records]) for name in names}

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]


def record(index, captions=("a thing",), **attributes):
    """A record whose 4 x 4 image is transparent but for one pixel that tells the index."""
    image = np.zeros((4, 4, 4), np.uint8)
    image[0, 0] = (index, 255 - index, 7, 255)
    return {"id": f"r{index}", "image": image, "captions": tuple(captions), **attributes}


def fixed_encode(zimg, texts, *, scale=1.0, bias=0.0):
    """An Encode that looks up: `zimg` for the only source (or {id(source): z}), `texts` {string: z}."""

    def images(source):
        z = zimg[id(source)] if isinstance(zimg, dict) else zimg
        assert len(z) == len(source)
        return unit(np.asarray(z))

    def embed(strings):
        return unit(np.stack([np.asarray(texts[text], np.float32) for text in strings]))

    return Encode(images, embed, scale, bias)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
