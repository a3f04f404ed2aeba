from bias_clip.evals.suites.layouts.data import SuiteData
from bias_clip.evals.suites.layouts.registry import LAYOUTS, read_layout

__all__ = ["LAYOUTS", "SuiteData", "read_layout"]
