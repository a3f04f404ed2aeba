from bias_clip.evals.encode import Encode, make_encoder
from bias_clip.evals.evaluators import DESCRIPTIONS, EVALUATORS, make_evaluator
from bias_clip.evals.headlines import Headline, headlines
from bias_clip.evals.metrics import Description, Metric
from bias_clip.evals.results import EvalResult

__all__ = [
    "DESCRIPTIONS",
    "EVALUATORS",
    "Description",
    "Encode",
    "EvalResult",
    "Headline",
    "Metric",
    "headlines",
    "make_encoder",
    "make_evaluator",
]
