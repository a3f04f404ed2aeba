"""Linear probes of several factors: which of them do the embeddings contain?

If easy and hard features both distinguish images, a contrastive model may keep the easy ones and
suppress the others. A stage that was trained on images with the same easy features should contain the
missing ones.
"""

from collections.abc import Callable, Sequence

import numpy as np

from bias_clip.data.sources import Source
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Description, Metric
from bias_clip.evals.quality.probe import make_probe
from bias_clip.evals.results import EvalResult

DESCRIPTION = Description(
    "features",
    "A linear classifier of each factor on the same embeddings; the factors differ in chance level.",
    {
        "acc1": Metric(
            "accuracy, mean over factors", "share", "higher", True, chart="", short="mean"
        ),
        "acc1_min": Metric(
            "accuracy, worst factor", "share", "higher", True, chart="", short="worst factor"
        ),
        "acc1_{factor}": Metric(
            "accuracy, {factor}",
            "share",
            "higher",
            chance="chance_{factor}",
            chart="each factor",
            short="{factor}",
        ),
        "chance_{factor}": Metric("accuracy of the most frequent {factor}", "share"),
    },
)


def make_factors(
    source: Source,
    *,
    train_source: Source,
    factors: Sequence[str],
    penalties: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3),
    seed: int = 0,
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: a ridge classifier of each factor, on the same embeddings.

    Metrics: acc1_<factor> and chance_<factor>, see `make_probe`; acc1 (mean over the factors) and
    acc1_min (of the factor that is read worst).

    Args:
      source: images to evaluate.
      train_source: images on which the classifiers are fitted.
      factors: columns of both sources, such as shape, texture and colour.
      penalties: as for `make_probe`.
      seed: as for `make_probe`.

    Raises:
      ValueError: no factors, a duplicate factor, one called "min", or as `make_probe`.

    Reference: Hermann and Lampinen: What Shapes Feature Representations? Exploring Datasets,
    Architectures, and Training, 2020; they fit logistic regressions.
    """
    if not factors or isinstance(factors, str) or len(set(factors)) < len(factors):
        raise ValueError(f"factors are {factors!r}; expected some columns, none twice.")
    # acc1_min is a metric already, and one key cannot hold both.
    if "min" in factors:
        raise ValueError(
            "a factor is called 'min', and acc1_min is the accuracy of the worst factor; rename the column."
        )
    probes = {
        name: make_probe(
            source, train_source=train_source, label=name, penalties=penalties, seed=seed
        )
        for name in factors
    }

    def evaluate(encode: Encode) -> EvalResult:
        # `encode` keeps the embeddings, so that all probes share them.
        found = {name: probe(encode).metrics for name, probe in probes.items()}
        accuracies = [metrics["acc1"] for metrics in found.values()]
        metrics = {"acc1": float(np.mean(accuracies)), "acc1_min": float(np.min(accuracies))}
        for name, own in found.items():
            metrics |= {f"acc1_{name}": own["acc1"], f"chance_{name}": own["chance"]}
        return EvalResult(metrics, {"kind": "factors", "factors": list(factors)})

    return evaluate
