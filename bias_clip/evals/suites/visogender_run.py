"""VisoGender from its folder: the sentences of each image, and their scores."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from bias_clip.data.records import column
from bias_clip.evals.encode import Encode
from bias_clip.evals.results import EvalResult
from bias_clip.evals.suites.layouts.data import SuiteData
from bias_clip.evals.suites.layouts.tables import read_visogender
from bias_clip.evals.suites.spec import Suite
from bias_clip.evals.suites.visogender import visogender_resolution, visogender_retrieval


def make_visogender(
    suite: Suite, path: Path, *, official: bool = False
) -> Callable[[Encode], dict[str, EvalResult]]:
    """Returns `evaluate(encode)`: "resolution", and "retrieval" of images of two people.

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

    def evaluate(encode: Encode) -> dict[str, EvalResult]:
        scores = [
            _scores(encode, data, texts) for data, texts in zip((one, two), sentences, strict=True)
        ]
        resolved = visogender_resolution(
            scores[0],
            one.codes[gender],
            scores[1],
            two.codes[gender],
            two.codes[other],
            official=official,
        )
        z, rows = encode.images(two.source).astype(np.float64), []
        for i, _ in enumerate(two.names["Occupation"]):
            own = np.flatnonzero(two.codes["Occupation"] == i)
            query = encode.texts([sentences[1][own[0]][2]])[0]
            rows.append((z[own] @ query, two.codes[gender][own]))
        found = visogender_retrieval(
            [s for s, _ in rows], [g for _, g in rows], ks=suite.options["ks"], official=official
        )
        return {"resolution": resolved, "retrieval": found}

    return evaluate


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
    texts = [encode.texts([row[i] for row in sentences]).astype(np.float64) for i in range(3)]
    # Rounded, so that sentences whose embeddings are equal tie.
    return np.stack([(z * t).sum(axis=1) for t in texts], axis=1).astype(np.float32)
