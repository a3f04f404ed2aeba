from bias_clip.stages.kmeans import KMeans, assign, fit
from bias_clip.stages.kmeans_stream import fit_stream
from bias_clip.stages.mcl import Cells, accumulate, merge_small
from bias_clip.stages.mcl_plan import BatchPlan, epoch_rows, global_rows, make_batch_plan

__all__ = [
    "BatchPlan",
    "Cells",
    "KMeans",
    "accumulate",
    "assign",
    "epoch_rows",
    "fit",
    "fit_stream",
    "global_rows",
    "make_batch_plan",
    "merge_small",
]
