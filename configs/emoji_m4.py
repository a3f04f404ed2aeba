"""The biased emoji with weights that remove the bias: thinned or weighted, in one or two phases (M4).

    python tools/annotate.py --source emoji split=train unit=entry variant=biased \
        --out runs/m4/annotations.parquet --column man=gender yes=man no=woman unknown=*
    python tools/balance.py --annotations runs/m4/annotations.parquet --out runs/m4/weights.parquet \
        --report runs/m4/balance --min-per-side 10
    python -m bias_clip.train --config=configs/emoji_m4.py:thin,balanced,100% --workdir=runs/m4/100
    python -m bias_clip.train --config=configs/emoji_m4.py:thin,balanced,90% --workdir=runs/m4/90
    python -m bias_clip.train --config=configs/emoji_m4.py:thin,balanced,10% --workdir=runs/m4/10
    python -m bias_clip.train --config=configs/emoji_m4.py:thin,balanced,0% --workdir=runs/m4/0

After the colon: use, data of the first phase, its length. "0%" never sees balanced data. 10 and 90 %
measure how soon the balance of the first phase is forgotten or, with "plain" instead of "balanced", how
soon the bias is. All runs see the same number of examples. Alabdulmohsin et al. 2024 (CLIP the Bias)
compare these four on their own data, with thinning. "weight" puts the weights into the loss instead, for
anchors and candidates.

The weights change the share of men from 64 to 51 % of the gendered entries (2,339 of 2,597 are kept).
Roles have no constraint, because all except the dancer have fewer than ten entries on one side. All men's roles
as one label cannot be balanced here without deleting nearly all of them.

Measured on 29 November 2026, "thin,balanced,100%", one seed (in brackets seed 0 of configs/emoji_biased.py): names of
an unseen style 23.6 / 46.7 % (24.8 / 48.8), held-out images 28.0 / 58.0 % (29.7 / 56.8). The stereotype in preference
is 18 points (31 +- 4 in three seeds), in recognition 9 (8 +- 18). An audit of it: docs/audit.md. Three seeds of a
smaller form: docs/m4.md.
"""

from bias_clip.data.emoji.splits import MEN_ROLES, WOMEN_ROLES
from configs.emoji import emoji
from configs.emoji_biased import get_config as get_biased

TABLE = "runs/m4/weights.parquet"
PAIRS = (  # the first word of each is a woman's role in the biased data, the second a man's
    ("artist", "mechanic"),
    ("cook", "firefighter"),
    ("office worker", "scientist"),
    ("student", "pilot"),
    ("teacher", "judge"),
)


def get_config(arguments="thin,balanced,100%"):
    use, first, switch = _split(arguments)
    config = get_biased()
    config.data.balance = dict(table=TABLE, use=use, seed=0, first=first, switch=switch)
    if use == "weight":
        with config.unlocked():
            config.objective.sigmoid.weight_candidates = True
    config.evals.update(by_group(config.data.source.to_dict()))
    return config


def by_group(source):
    """The evaluators by group on the unseen style, and those of the data before balancing."""
    style, by = emoji("style"), dict(by="gender", groups=("man", "woman"))
    roles = sorted(MEN_ROLES | WOMEN_ROLES)
    return dict(
        accuracy_by_gender=dict(type="groups", source=style, label="concept", **by),
        role_parity=dict(type="parity", source=style, classes=roles, **by),
        role_search=dict(type="skew", source=style, words=roles, ks=(10, 50), **by),
        role_pairs=dict(type="association", source=style, pairs=PAIRS, **by),
        nobody_shown=dict(type="representation", source=style, only=dict(gender=("none",))),
        data_before_balancing=dict(type="data_bias", source=source, label="concept", **by),
    )


def _split(arguments):
    parts = arguments.split(",")
    if len(parts) != 3:
        raise ValueError(
            f"got {arguments!r} after the colon; expected use, first stage and how long it lasts, "
            "such as 'thin,balanced,100%' or 'weight,plain,90%'."
        )
    return parts
