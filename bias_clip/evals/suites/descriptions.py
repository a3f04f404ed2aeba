"""What each family of suites says of its metrics, by the kind in its results."""

from bias_clip.evals.metrics import Description
from bias_clip.evals.suites import (
    association_tests,
    berg,
    clip_benchmark,
    fairness,
    neutral,
    sispi,
    sobit,
    visogender,
    worst_group,
)

SUITE_DESCRIPTIONS: dict[str, Description] = {
    "association_test": association_tests.DESCRIPTION,
    "berg": berg.DESCRIPTION,
    "fairness": fairness.DESCRIPTION,
    "neutral": neutral.DESCRIPTION,
    "retrieval": clip_benchmark.RETRIEVAL,
    "sispi": sispi.DESCRIPTION,
    "sobit": sobit.DESCRIPTION,
    "visogender_resolution": visogender.RESOLUTION,
    "visogender_retrieval": visogender.RETRIEVAL,
    "worst_group": worst_group.DESCRIPTION,
    "zeroshot": clip_benchmark.ZEROSHOT,
}
