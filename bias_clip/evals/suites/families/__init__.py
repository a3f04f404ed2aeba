from bias_clip.evals.suites.families.registry import measure, parts_of

__all__ = ["measure", "parts_of"]
