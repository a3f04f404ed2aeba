"""The evaluators by name, as configs name them."""

from collections.abc import Callable
from typing import Any

from bias_clip.core.registry import call_by_name
from bias_clip.data.sources import Source
from bias_clip.evals.bias import data_bias, groups, parity, roles, skew
from bias_clip.evals.bias.association import (
    ASSOCIATION,
    REPRESENTATION,
    make_association,
    make_representation,
)
from bias_clip.evals.bias.data_bias import make_data_bias
from bias_clip.evals.bias.groups import make_groups
from bias_clip.evals.bias.parity import make_parity
from bias_clip.evals.bias.roles import make_bias
from bias_clip.evals.bias.skew import make_skew
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Description
from bias_clip.evals.quality import contrastive, factors, probe, retrieval, zeroshot
from bias_clip.evals.quality.contrastive import make_contrastive
from bias_clip.evals.quality.factors import make_factors
from bias_clip.evals.quality.pairs import (
    MMVP,
    SUGARCREPE,
    WINOGROUND,
    make_mmvp,
    make_sugarcrepe,
    make_winoground,
)
from bias_clip.evals.quality.probe import make_probe
from bias_clip.evals.quality.retrieval import make_retrieval
from bias_clip.evals.quality.zeroshot import make_zeroshot
from bias_clip.evals.results import EvalResult

EVALUATORS: dict[str, Callable[..., Callable[[Encode], EvalResult]]] = {
    "association": make_association,
    "bias": make_bias,
    "contrastive": make_contrastive,
    "data_bias": make_data_bias,
    "factors": make_factors,
    "groups": make_groups,
    "mmvp": make_mmvp,
    "parity": make_parity,
    "probe": make_probe,
    "representation": make_representation,
    "retrieval": make_retrieval,
    "skew": make_skew,
    "sugarcrepe": make_sugarcrepe,
    "winoground": make_winoground,
    "zeroshot": make_zeroshot,
}
DESCRIPTIONS: dict[str, Description] = {  # the description of each evaluator's metrics
    "association": ASSOCIATION,
    "bias": roles.DESCRIPTION,
    "contrastive": contrastive.DESCRIPTION,
    "data_bias": data_bias.DESCRIPTION,
    "factors": factors.DESCRIPTION,
    "groups": groups.DESCRIPTION,
    "mmvp": MMVP,
    "parity": parity.DESCRIPTION,
    "probe": probe.DESCRIPTION,
    "representation": REPRESENTATION,
    "retrieval": retrieval.DESCRIPTION,
    "skew": skew.DESCRIPTION,
    "sugarcrepe": SUGARCREPE,
    "winoground": WINOGROUND,
    "zeroshot": zeroshot.DESCRIPTION,
}


def make_evaluator(name: str, source: Source, **arguments: Any) -> Callable[[Encode], EvalResult]:
    """Returns the evaluator with that name in `EVALUATORS`, made for the source.

    Raises:
      ValueError: an unknown name or argument, or a missing one; lists the valid ones.
    """
    return call_by_name("evaluator", EVALUATORS, name, arguments, source)
