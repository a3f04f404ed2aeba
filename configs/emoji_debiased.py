"""Many captions of one concept in a batch: CLIP's loss, and its debiased forms, on a long tail.

    python -m bias_clip.train --config=configs/emoji_debiased.py:clip --workdir=runs/clip
    python -m bias_clip.train --config=configs/emoji_debiased.py:constant --workdir=runs/constant
    python -m bias_clip.train --config=configs/emoji_debiased.py:specific --workdir=runs/specific

One record per drawing: "wrestling" is drawn 105 times in training, half of all concepts five times at
most. So negatives of the one are now and then of its concept, those of a "moai" hardly ever. "constant" corrects all anchors for the mean chance
of that (Chuang et al. 2020), "specific" each for its own (Wang et al. 2023, where this project
estimates the chance by the concept's frequency; how the authors do is not known to us).

Expected result: "clip" and "constant" alike in one short run, "specific" not measured; configs/README.md says
why this data can hardly tell them apart.
"""

from configs.emoji import emoji
from configs.emoji import get_config as get_emoji

LOSSES = ("clip", "constant", "specific")
MEAN_PRIOR = 0.003  # of two training drawings to show one concept


def get_config(loss="specific"):
    if loss not in LOSSES:
        raise ValueError(f"got loss {loss!r}; expected one of {LOSSES}, after a colon.")
    config = get_emoji()
    config.data.source = emoji("train", unit="image")
    with config.unlocked():
        if loss == "clip":
            config.objective = dict(softmax=dict(coef=1.0))
        elif loss == "constant":
            config.objective = dict(debiased=dict(coef=1.0, prior=MEAN_PRIOR))
        else:
            config.objective = dict(debiased=dict(coef=1.0))
    if loss == "specific":
        config.data.columns = dict(prior=dict(share_of="concept"))
    config.evals.style_concept = dict(
        type="zeroshot",
        source=emoji("style"),
        label="concept",
        class_source=emoji("all", unit="entry"),
        canonical=False,
    )
    return config
