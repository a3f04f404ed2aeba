from bias_clip.evals.encode import Encode, make_encoder
from bias_clip.evals.evaluators import EVALUATORS, make_evaluator
from bias_clip.evals.results import EvalResult

__all__ = ["EVALUATORS", "Encode", "EvalResult", "make_encoder", "make_evaluator"]
