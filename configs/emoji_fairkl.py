"""As configs/emoji_biased.py, with FairKL on image embeddings: distances that do not depend on gender.

    python -m bias_clip.train --config=configs/emoji_fairkl.py --workdir=runs/emoji_fairkl

FairKL (Barbano et al. 2023, eq. 9 c, d) gives distances between images of one gender the same
distribution as distances between a woman and a man. It does so for pairs of the same concept and for
pairs of different concepts. Images without a sign of gender are left out.

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
