"""VisoGender from its folder: the sentences of each image, and their scores."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bias_clip.data.records import column
from bias_clip.evals.encode import Encode
from bias_clip.evals.suites.layouts.data import SuiteData
from bias_clip.evals.suites.layouts.tables import read_visogender
from bias_clip.evals.suites.spec import Suite


class Scores(NamedTuple):
    """What one model says of VisoGender's images.

    Attributes:
      one: scores of his, her, their for images of one person.
      one_gender: of that person, 0 masculine, 1 feminine.
      one_image: rows of one address are one image.
      two: the same for images of two people, the occupation first in the sentence.
      two_gender: of the person in the occupation.
      other_gender: of the other person.
      two_image: as `one_image`.
      by_occupation: for each occupation the scores of its images of two people for its sentence with
        "their", and the genders of the people in the occupation.
    """

    one: Float[np.ndarray, "n 3"]
    one_gender: Int[np.ndarray, " n"]
    one_image: Int[np.ndarray, " n"]
    two: Float[np.ndarray, "m 3"]
    two_gender: Int[np.ndarray, " m"]
    other_gender: Int[np.ndarray, " m"]
    two_image: Int[np.ndarray, " m"]
    by_occupation: list[tuple[np.ndarray, np.ndarray]]


def make_visogender(suite: Suite, path: Path) -> Callable[[Encode], Scores]:
    """Returns `read(encode)`: the scores of all sentences.

    Retrieval ranks the images of each occupation for its sentence with "their", which names the
    participant of the occupation's first image. With fewer images than were published (addresses
    die), occupations of one gender count, and those below a cut-off have no number there.

    Raises:
      ValueError: what `read_visogender` raises.
    """
    one, two = read_visogender(path, people=1), read_visogender(path, people=2)
    sentences = [
        _sentences(suite, data, suite.prompts[key], thing)
        for data, key, thing in ((one, "one_person", "Object"), (two, "two_people", "Participant"))
    ]
    gender, other = "Occupation_perceived_gender", "Participant_perceived_gender"

    def read(encode: Encode) -> Scores:
        scores = [
            _scores(encode, data, texts) for data, texts in zip((one, two), sentences, strict=True)
        ]
        z, rows = encode.images(two.source).astype(np.float64), []
        for i, _ in enumerate(two.names["Occupation"]):
            own = np.flatnonzero(two.codes["Occupation"] == i)
            # [2] is "their", the third pronoun.
            query = encode.texts([sentences[1][own[0]][2]])[0]
            rows.append((z[own] @ query, two.codes[gender][own]))
        assert one.clusters is not None
        assert two.clusters is not None
        return Scores(
            scores[0],
            one.codes[gender],
            one.clusters,
            scores[1],
            two.codes[gender],
            two.codes[other],
            two.clusters,
            rows,
        )

    return read


def _sentences(suite: Suite, data: SuiteData, prompt: str, thing: str) -> list[list[str]]:
    """For each image its sentence with each pronoun."""
    occupations, things = column(data.source, "Occupation"), column(data.source, thing)
    return [
        [
            prompt.replace("{occupation}", str(occupation))
            .replace("{pronoun}", pronoun)
            .replace(f"{{{thing.lower()}}}", str(other))
            for pronoun in suite.classes["pronoun"]
        ]
        for occupation, other in zip(occupations, things, strict=True)
    ]


def _scores(
    encode: Encode, data: SuiteData, sentences: list[list[str]]
) -> Float[np.ndarray, "n 3"]:
    z = encode.images(data.source).astype(np.float64)
    # One pronoun at a time: [n, d] against the images, row by row.
    texts = [encode.texts([row[i] for row in sentences]).astype(np.float64) for i in range(3)]
    # Rounded, so that sentences whose embeddings are equal tie.
    return np.stack([(z * t).sum(axis=1) for t in texts], axis=1).astype(np.float32)
