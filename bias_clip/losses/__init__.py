from bias_clip.losses._blocks import fold_blocks, weighted_mean
from bias_clip.losses._together import together
from bias_clip.losses.debiased import debiased_floor, debiased_loss, hard_debiased_loss
from bias_clip.losses.debiased_sigmoid import debiased_sigmoid_loss
from bias_clip.losses.fairkl import fairkl
from bias_clip.losses.sigmoid import sigmoid_loss
from bias_clip.losses.softmax import softmax_loss
from bias_clip.losses.supcon import eps_supcon_loss, eps_supinfonce_loss, supcon_loss

__all__ = [
    "debiased_floor",
    "debiased_loss",
    "debiased_sigmoid_loss",
    "eps_supcon_loss",
    "eps_supinfonce_loss",
    "fairkl",
    "fold_blocks",
    "hard_debiased_loss",
    "sigmoid_loss",
    "softmax_loss",
    "supcon_loss",
    "together",
    "weighted_mean",
]
