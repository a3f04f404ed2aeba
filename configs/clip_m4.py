"""CLIP on data balanced by M4: the main grid of "CLIP the Bias", for data of yours.

    python -m bias_clip.train --config=configs/clip_m4.py:B/16,768,balanced,100 --workdir=/mnt/runs/clip_m4

after the tables of configs/siglip_b16_m4.py, whose letters [P], [S], [O] mark the numbers here too.
After the colon: size and patch of the image tower, width of the embeddings, data, percent. The paper
trains more than 150 such models and compares them by Wilcoxon's signed rank test over matched pairs [P]:

    S/16 S/32 B/16 B/32  x  384 768  x  plain,0  {balanced,proxies},{10,90,100}  {balanced,proxies}_last,{10,90}
    x  --config.seed=0 1 2

Expected result: findings, not numbers [P]: the representation bias follows the data seen last; the
association bias falls slowly, so balance from the start; proxies help the first and may hurt the second;
classification tends to gain by balancing and retrieval to lose. Not reproduced by us at this size.
"""

from configs.siglip_b16 import get_config as get_siglip
from configs.siglip_b16_m4 import TABLES, balance, evals, read_arguments

SIZES = ("S/16", "S/32", "B/16", "B/32")  # [P] S and B; that the patches are both, is [O]
WIDTHS = ("384", "768")  # [P]


def get_config(arguments="B/16,768,balanced,100"):
    size, width, data, percent = _split(arguments)
    config = get_siglip()
    config.data.source.path = "data/pairs/*.array_record"  # yours: tools/export_array_record.py
    config.data.balance = balance(TABLES, data, percent)
    config.evals = evals("data/{}.array_record")
    config.model.image.variant = size
    config.model.text.variant = size[0]  # [O] the text tower is of the image tower's size
    config.model.text.out_dim = int(width)
    with config.unlocked():
        config.objective = dict(softmax=dict(coef=1.0))  # [P]
    return config


def _split(arguments):
    parts = arguments.split(",", 2)
    if len(parts) < 3 or parts[0] not in SIZES or parts[1] not in WIDTHS:
        raise ValueError(
            f"got {arguments!r} after the colon; expected one of {SIZES}, one of {WIDTHS}, then what "
            "configs/siglip_b16_m4.py takes, such as 'B/16,768,balanced,90'."
        )
    return parts[0], parts[1], *read_arguments(parts[2])
