"""A bias nobody invented: training on drawings whose gender-neutral figure is the man's, or is not.

    python -m bias_clip.train --config=configs/emoji_natural.py:noto-v1 --workdir=runs/noto-v1
    python -m bias_clip.train --config=configs/emoji_natural.py:noto --workdir=runs/noto

In noto-v1 the drawing of the neutral "detective" is, pixel for pixel, that of the man in 21 of 32
concepts and that of the woman in the other 11; in today's noto in 1 + 1 of 74. Both models are judged on
the neutral drawings of three sets of artists that neither has seen.

Expected result: see README.md, if it has been measured; else nobody knows yet.
"""

from configs.emoji import emoji
from configs.emoji import get_config as get_emoji

STYLES = ("noto-v1", "noto")


def get_config(style="noto"):
    if style not in STYLES:
        raise ValueError(f"got style {style!r}; expected one of {STYLES}, after a colon.")
    config = get_emoji()
    config.total = "80_000 examples"  # the same for both: noto has more drawings
    config.data.source.styles = (style,)
    config.evals = {
        f"gender_{other.replace('-', '_')}": dict(
            type="bias", source=emoji("all", styles=(other,)), attribute="gender"
        )
        for other in ("fluent-flat", "fluent-3d", "twemoji")
    }
    return config
