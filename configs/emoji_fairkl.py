"""As configs/emoji_biased.py, with FairKL on the images' embeddings: distances that gender leaves alone.

    python -m bias_clip.train --config=configs/emoji_fairkl.py --workdir=runs/emoji_fairkl

FairKL (Barbano et al. 2023, eq. 9 c, d) makes the distances between images of one gender spread
like those between a woman and a man, for pairs of one concept and for pairs of two. Drawings
without a sign of gender take no part in it.

Expected result: not measured yet; the comparison is with configs/emoji_biased.py.
"""

from configs.emoji_biased import get_config as get_biased


def get_config():
    config = get_biased()
    config.data.columns = dict(
        labels="concept", bias_labels=dict(attribute="gender", values=("woman", "man"))
    )
    with config.unlocked():
        config.objective.fairkl = dict(coef=0.1, form="kl", tower="image")
    return config
