from bias_clip.stages.kmeans import KMeans, assign, fit
from bias_clip.stages.kmeans_stream import fit_stream

__all__ = [
    "KMeans",
    "assign",
    "fit",
    "fit_stream",
]
