"""M4 on the emoji of people: the effect of balancing on bias and quality, by phases, losses and seeds.

    python -m tools.experiments.m4_ablation --workdir=runs/m4_people --jobs 2

This command annotates, solves, trains the whole grid and writes the page. When the tables of weights exist, a
single run of the grid is

    python -m bias_clip.train --config=configs/m4_people.py:siglip,balanced,90 --workdir=runs/m4_people/one

After the colon: the loss (siglip or clip), the data of the first phase, and its length in percent of the run. The
data are "balanced", "proxies" (proxies balanced too) or "random" (the same number of images, at random). The second
phase uses the plain data. "balanced_last" has the plain data first. All runs see the same number of examples;
"plain,0" has only one phase.

The plain data are 4,836 images. Women are 0.7 times as frequent as men, counter-stereotypical images 0.3 times
as frequent as others, and the neutral figures of these roles are removed. A hash of its name (seed 0) decides
whether an image is kept, so all runs see the same images.

Expected result: docs/m4.md: the stereotype in recognition falls from about 20 points to zero.
"""

from bias_clip.data.emoji.splits import MEN_ROLES, WOMEN_ROLES
from configs.emoji import emoji
from configs.emoji_people import get_config as get_people
from configs.emoji_people import people

RATES = dict(counter=0.3, woman=0.7, neutral=0.0, dark=1.0)
SOURCE = dict(variant="biased", thin="drawing", rates=RATES)
TABLES = "runs/m4_people"
LOSSES = ("siglip", "clip")
SUITES = ("emoji_roles", "emoji_search", "emoji_association", "emoji_representation")
DATA = ("plain", "random", "balanced", "proxies", "balanced_last")


def get_config(arguments="siglip,balanced,100"):
    loss, data, percent = _split(arguments)
    config = get_people()
    config.data.source = people("train", **SOURCE)
    if data != "plain":
        last = data.endswith("_last")
        config.data.balance = dict(
            table=f"{TABLES}/{data.removesuffix('_last')}.parquet",
            use="thin",
            seed=0,
            first="plain" if last else "balanced",
            switch=None if percent == "100" and not last else f"{percent}%",
        )
    # Not a cosine: its last tenth hardly trains, so a second phase there would change nothing.
    config.schedule = dict(name="constant", warmup="3%", cooldown="10%")
    with config.unlocked():
        if loss == "clip":
            config.objective = dict(softmax=dict(coef=1.0))
        # No run trains on neutral figures of the thinned roles. In known styles a model recognises the
        # roles (85 %), so how it reads the figure depends on the bias of the data.
        config.evals.known = bias(people("train"))
        config.evals.style_bias = bias(emoji("style"))
        # What the audit says of the emoji of this package, with intervals over images.
        for suite in SUITES:
            config.evals[suite] = dict(type="suite", suite=suite)
    return config


def bias(source):
    stereotypes = (sorted(WOMEN_ROLES), sorted(MEN_ROLES))
    return dict(type="bias", source=source, attribute="gender", stereotypes=stereotypes)


def _split(arguments):
    parts = arguments.split(",")
    known = len(parts) == 3 and parts[0] in LOSSES and parts[1] in DATA and parts[2].isdigit()
    if not known or int(parts[2]) > 100:
        raise ValueError(
            f"got {arguments!r} after the colon; expected one of {LOSSES}, one of {DATA} and a "
            "percentage, such as 'siglip,balanced,90'."
        )
    return parts
