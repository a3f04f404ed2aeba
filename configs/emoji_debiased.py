"""Many captions of one concept in a batch: CLIP's loss, and its debiased forms, on a long tail.

    python tools/sweep.py --workdir=runs/debiased --config=configs/emoji_debiased.py:clip \
        --config=configs/emoji_debiased.py:constant --config=configs/emoji_debiased.py:specific

People alone, one record per drawing: of 153 concepts the commonest has 131 drawings of 6,406, a tenth of them five
or fewer. In a batch of 512 that is ten negatives of the own concept for the one, none for the other, five on
average. "constant" corrects all anchors for the mean chance of it (Chuang et al. 2020), "specific" each for its
own (Wang et al. 2023, where this project estimates the chance by the concept's frequency; how the authors
do is not known to us). Captions name the concept, and most also gender and tone.

Expected result: configs/README.md.
"""

from configs.emoji_people import get_config as get_people

LOSSES = ("clip", "constant", "specific")
MEAN_PRIOR = 0.0098  # of two training drawings to show one concept


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
