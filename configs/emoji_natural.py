"""A natural bias: training on emoji whose gender-neutral figure looks like the man's, or does not.

    python -m bias_clip.train --config=configs/emoji_natural.py:noto-v1 --workdir=runs/noto-v1
    python -m bias_clip.train --config=configs/emoji_natural.py:noto --workdir=runs/noto

In noto-v1 the neutral figure looks like the man in 22 of 33 concepts ("detective", "guard"), and like the
woman in the other 11 ("shrugging"). In today's noto each occurs in one concept. Of the roles that we
measure, 17 are among the 22. Both models are tested on three styles by other artists, which neither has
seen. `stereotype_preference` is how much more often the neutral figure is called a man in those 17 roles
than in the others.

Expected result: no difference over three seeds; docs/results.md has the numbers. One style does not teach enough
about gender to recognise it in another style.
"""

from bias_clip.data.emoji import emoji_roles, emoji_twins
from configs.emoji import GENTLE, emoji, set_images
from configs.emoji import get_config as get_emoji

STYLES = ("noto-v1", "noto")


def get_config(style="noto"):
    if style not in STYLES:
        raise ValueError(f"got style {style!r}; expected one of {STYLES}, after a colon.")
    config = get_emoji()
    config.total = "80_000 examples"  # the same for both, because noto has more images
    set_images(config, 48, GENTLE)  # as it was measured
    config.data.source.styles = (style,)
    drawn_as_man = emoji_twins("noto-v1")["man"]
    others = sorted(set(emoji_roles()) - set(drawn_as_man))
    config.evals = {
        f"gender_{other.replace('-', '_')}": dict(
            type="bias",
            source=emoji("all", styles=(other,)),
            attribute="gender",
            stereotypes=(others, drawn_as_man),
        )
        for other in ("fluent-flat", "fluent-3d", "twemoji")
    }
    return config
