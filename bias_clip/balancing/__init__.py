from bias_clip.balancing.balanced_draw import Cells, allocate, keep_balanced, make_cells
from bias_clip.balancing.counts import CountTable, count, lookup, merge
from bias_clip.balancing.m4 import Solution, max_eta, solve
from bias_clip.balancing.moments import (
    Association,
    association_bias,
    effective_sample_size,
    prevalence,
    prevalence_shift,
    representation_bias,
)
from bias_clip.balancing.problem import Problem, make_problem, tolerances
from bias_clip.balancing.stream import (
    Batch,
    State,
    fit_stream,
    init_stream,
    stream_weights,
    update_stream,
)
from bias_clip.balancing.thinning import hash01, keep

__all__ = [
    "Association",
    "Batch",
    "Cells",
    "CountTable",
    "Problem",
    "Solution",
    "State",
    "allocate",
    "association_bias",
    "count",
    "effective_sample_size",
    "fit_stream",
    "hash01",
    "init_stream",
    "keep",
    "keep_balanced",
    "lookup",
    "make_cells",
    "make_problem",
    "max_eta",
    "merge",
    "prevalence",
    "prevalence_shift",
    "representation_bias",
    "solve",
    "stream_weights",
    "tolerances",
    "update_stream",
]
