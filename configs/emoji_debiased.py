"""Batches with many captions of one concept: CLIP's loss and its debiased forms on a long tail.

    python tools/sweep.py --workdir=runs/debiased --config=configs/emoji_debiased.py:clip \
        --config=configs/emoji_debiased.py:constant --config=configs/emoji_debiased.py:specific

The data are images of people, one record per image. The most frequent of 153 concepts has 131 of 6,406
images; a tenth of the concepts has five or fewer. So in a batch of 512, ten negatives of an anchor may show its
own concept, or none; the mean is five. "constant" corrects all anchors by the mean probability of this (Chuang
et al. 2020). "specific" corrects each anchor by its own probability (Wang et al. 2023); this project estimates it
from the frequency of the concept, and we do not know the authors' estimate. Captions name the concept, and most
also gender and tone.

Expected result: configs/README.md.
"""

from configs.emoji_people import get_config as get_people

LOSSES = ("clip", "constant", "specific")
MEAN_PRIOR = 0.0098  # probability that two training images show the same concept


def get_config(loss="specific"):
    if loss not in LOSSES:
        raise ValueError(f"got loss {loss!r}; expected one of {LOSSES}, after a colon.")
    config = get_people()
    config.total = "80_000 examples"
    config.batch_size = 512
    with config.unlocked():
        if loss == "clip":
            config.objective = dict(softmax=dict(coef=1.0))
        elif loss == "constant":
            config.objective = dict(debiased=dict(coef=1.0, prior=MEAN_PRIOR))
        else:
            config.objective = dict(debiased=dict(coef=1.0))
    if loss == "specific":
        config.data.columns = dict(prior=dict(share_of="concept"))
    return config
