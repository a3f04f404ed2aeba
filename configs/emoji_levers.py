"""What cheaper steps cost: the emoji run with light steps, judged on a style that is not the test.

    python tools/sweep.py --workdir=runs/levers --config=configs/emoji_levers.py:none --config=configs/emoji_levers.py:length

Light steps are chosen here, for `configs/emoji.py`, so the unseen style of the main job must not be seen: noto-v1
is left out of training, and names are chosen for its images. It is easier than a new designer's style, since today's
noto, which stays, has some of its shapes. The main job's model at 48 px, with 90,000 examples.

Expected result: the table of docs/speed.md, "Light steps".
"""

from bias_clip.data.emoji.source import STYLES
from configs.emoji import GENTLE, emoji, set_images
from configs.emoji import get_config as get_emoji

LEFT_OUT = "noto-v1"
UNTIL = "80%"
LEVERS = {
    "none": None,
    "size": dict(until=UNTIL, size=32),
    "patches": dict(until=UNTIL, patches=0.5),
    "length": dict(until=UNTIL, length=12),
    "size_length": dict(until=UNTIL, size=32, length=12),
}


def get_config(lever="none"):
    if lever not in LEVERS:
        raise ValueError(f"got lever {lever!r}; expected one of {tuple(LEVERS)}, after a colon.")
    config = get_emoji()
    config.total = "90_000 examples"
    set_images(config, 48, GENTLE)  # as it was measured
    config.light = LEVERS[lever]
    known = tuple(style for style in STYLES if style not in (LEFT_OUT, "twemoji"))
    config.data.source.styles = known
    everything = emoji("all", unit="entry")
    zeroshot = dict(type="zeroshot", label="name", class_source=everything, canonical=False)
    left_out = emoji("train", styles=(LEFT_OUT,))
    config.evals = dict(
        style=zeroshot | dict(source=left_out),
        images=zeroshot | dict(source=emoji("images", styles=known)),
        style_retrieval=dict(type="retrieval", source=left_out),
        style_contrastive=dict(type="contrastive", source=left_out, loss="sigmoid"),
    )
    return config
