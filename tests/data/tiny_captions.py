"""A TFDS data set of nine records; TFDS wants its builders in an importable module."""

import io

import numpy as np
import tensorflow_datasets as tfds

from bias_clip.data.image import encode_png

_Image = tfds.features.Image(shape=(None, None, 4))


def image(number: int) -> np.ndarray:
    return np.full((8, 8, 4), number, np.uint8)


class TinyCaptions(tfds.core.GeneratorBasedBuilder):
    """Records 0 to 6 train, 7 and 8 test; each feature form that `tfds_source` reads."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {
            "image": _Image,
            "views": {"side": _Image},
            "text": text,
            "tags": tfds.features.Sequence(text),
            "captions": tfds.features.Sequence({"text": text}),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "number": np.int64,
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(range(7)),
            "test": self._generate_examples(range(7, 9)),
        }

    def _generate_examples(self, numbers):
        for number in numbers:
            png = encode_png(image(number))
            yield (
                number,
                {
                    "image": io.BytesIO(png),
                    "views": {"side": io.BytesIO(png)},
                    "text": f"Nummer {number} für alle",
                    "tags": ["x", "y"],
                    "captions": [{"text": f"first {number}"}, {"text": f"second {number}"}],
                    "label": number % 2,
                    "number": number,
                },
            )
