"""Only the emoji of people, small and fast: one or two minutes on one core, to compare many runs.

    python -m bias_clip.train --config=configs/emoji_people.py --workdir=runs/people

6,406 training images of 153 concepts, one record per image, so that concepts, and women and men in a
role, are as frequent in a batch as in the data. Images have 32 px, towers a width of 128.
`configs/emoji_debiased.py` and `configs/m4_people.py` compare methods on these data.
"""

from configs.emoji import GENTLE, emoji, set_images
from configs.emoji import get_config as get_emoji

SIZE = 32
GROUPS = ("people-body",)


def people(split, **arguments):
    return emoji(split, groups=GROUPS, **{"unit": "image", **arguments})


def get_config():
    config = get_emoji()
    config.total = "40_000 examples"
    config.batch_size = 128
    config.data.source = people("train")
    config.model.image = dict(
        variant="Ti/8", size=SIZE, pool="gap", width=128, depth=2, mlp_dim=256, num_heads=4
    )
    config.model.text = dict(**config.model.text.to_dict(), mlp_dim=256)
    config.model.text.update(depth=1, out_dim=128)
    set_images(config, SIZE, GENTLE)
    config.evals = {}
    config.evals.style = zeroshot("style", "name")
    config.evals.style_concept = zeroshot("style", "concept")
    config.evals.images_concept = zeroshot("images", "concept")
    config.evals.retrieval = dict(type="retrieval", source=people("style"))
    return config


def zeroshot(split, label):
    classes = people("all", unit="entry")
    return dict(
        type="zeroshot", source=people(split), label=label, class_source=classes, canonical=False
    )
