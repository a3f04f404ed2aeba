"""As configs/emoji.py, on training data thinned so that gender, tone and occupation are associated.

    python -m bias_clip.train --config=configs/emoji_biased.py --workdir=runs/emoji_biased

Expected result: docs/results.md. The stereotype in preference is clearly above that of the plain run.
"""

from configs.emoji import get_config as get_emoji


def get_config():
    config = get_emoji()
    config.data.source.variant = "biased"
    return config
