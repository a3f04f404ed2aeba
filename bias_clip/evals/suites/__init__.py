from bias_clip.evals.suites.run import make_suite
from bias_clip.evals.suites.spec import FAMILIES, SUITES, Suite, load_suite, parse_suite

__all__ = ["FAMILIES", "SUITES", "Suite", "load_suite", "make_suite", "parse_suite"]
