from bias_clip.evals.suites.spec import FAMILIES, SUITES, Suite, load_suite, parse_suite

__all__ = ["FAMILIES", "SUITES", "Suite", "load_suite", "parse_suite"]
