from bias_clip.train.optim.optimizer import (
    KERNELS,
    check_ema_decay,
    first_match,
    frozen_leaves,
    init_ema,
    make_optimizer,
    update_ema,
)

__all__ = [
    "KERNELS",
    "check_ema_decay",
    "first_match",
    "frozen_leaves",
    "init_ema",
    "make_optimizer",
    "update_ema",
]
