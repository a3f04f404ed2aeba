"""Feature suppression: colours already distinguish the cards, so the emoji on them is not needed.

    python -m tools.experiments.suppression --workdir=runs/suppressed --out docs/suppressed

This command trains three stages (MCL), one run three times as long, and three plain runs, with three seeds
each, and compares them. A single stage is

    python -m bias_clip.train --config=configs/suppressed.py --workdir=runs/card

After the colon, as for `tools/multistage.py`: "0" for the plain stage, "1" for later ones, "1,init" for those that
start from another's weights.

Expected result: a probe recognises the emoji in 37.5 % after stage 0 and in 71.9 % after three stages; see
docs/stages.md.
"""

from configs.emoji import get_config as get_emoji
from configs.emoji_stages import set_stage

SIZE = 32
# 240 pairs of colours: alone they identify two of three captions in a batch of 128. A cluster of ten
# contains so few pairs that the emoji decides there.
NAMES, COLOURS = 16, 16


def cards(split, number):
    return dict(name="emoji_cards", split=split, cards=number, names=NAMES, colours=COLOURS)


def get_config(arguments="0"):
    config = get_emoji()
    config.total = "40_000 examples"
    config.data.source = cards("train", 20_480)
    config.data.image = f"decode|resize({SIZE}, antialias=True)|value_range(-1,1)"
    config.data.first_caption = 1.0  # so that what says the same is the same text, and masked
    config.model.image = dict(
        variant="Ti/8", size=SIZE, pool="gap", width=128, depth=3, mlp_dim=256, num_heads=4
    )
    config.model.text = dict(**config.model.text.to_dict(), mlp_dim=256)
    config.model.text.update(depth=1, out_dim=128)
    with config.unlocked():
        config.objective = dict(softmax=dict(coef=1.0, duplicates="mask"))
    config.evaluation.image = config.data.image
    factors = dict(
        type="factors", train_source=cards("train", 4_096), factors=("name", "top", "bottom")
    )
    config.evals = dict(
        test=dict(**factors, source=cards("test", 4_096)),
        style=dict(**factors, source=cards("style", 2_048)),
    )
    config.checkpoint.every = "100%"
    return set_stage(config, arguments)
