"""The main job: a small SigLIP on emoji in five styles, tested on a sixth, in ten minutes on a laptop.

    python -m bias_clip.train --config=configs/emoji.py --workdir=runs/emoji

Expected result: see docs/results.md. `configs/emoji_biased.py` is the same run on data
that are thinned until gender, tone and occupation are associated.
"""

from bias_clip.data.emoji.splits import MEN_ROLES, WOMEN_ROLES
from configs.default import get_config as get_default

SIZE = 32  # pixels: a step takes 0.7 of its time at 48 and teaches as much, see configs/README.md
LENGTH = 24  # pieces: 16 would cut one caption in twenty, at the skin tone
# How images are moved in training. Random backgrounds, grey images and scales from 0.8 on together cost most of the
# quality of a short run, see configs/README.md.
AFFINE = "scale=(0.85, 1.15), shift=0.08, rotate=8"
GENTLE = "scale=(0.9, 1.1), shift=0.05, rotate=5"  # here until 2026-11-29; still in experiments


def emoji(split, **arguments):
    return dict(name="emoji", split=split, **arguments)


def set_images(config, size, moves):
    """Sets the size of the images, in pixels a side, and how they are moved in training."""
    config.model.image.size = size
    config.data.image = f"decode|affine({size}, {moves})|background(white)|value_range(-1,1)"
    config.evaluation.image = (
        f"decode|background(white)|resize({size}, antialias=True)|value_range(-1,1)"
    )


def get_config():
    config = get_default()
    config.total = (
        "450_000 examples"  # 125 epochs; not in epochs, so that thinned variants get as many
    )
    config.batch_size = 128  # small: the run is short of steps, not of negatives

    # One record per concept variant, in a style drawn at each visit: none is twice in a batch.
    config.data.source = emoji("train", unit="entry")
    config.data.text = dict(tokenizer="emoji", length=LENGTH)
    config.data.first_caption = 0.5  # the name; the others are its paraphrases and keywords

    config.model = dict(
        image=dict(variant="Ti/16", pool="map", stem="conv", depth=4),
        text=dict(
            variant="Ti",
            vocab_size=2_000,
            length=LENGTH,
            pool="gap",
            width=128,
            depth=2,
            num_heads=4,
            out_dim=192,
        ),
        scale_init=10.0,
        bias_init=-5.0,  # the logit of one positive in 128: -log(127)
        dtype="float32",
        remat="none",
        scan=False,  # 12 % more examples per second than a scan, on a CPU
    )
    config.objective = dict(sigmoid=dict(coef=1.0, duplicates="mask", chunk_size=None))
    # Muon: at equal time it is far ahead of AdamW here, see configs/README.md.
    config.optimizer = dict(
        name="muon",
        lr=3e-3,
        num_iterations=3,  # as good as 5 here, and 7 % more examples per second
        weight_decay=1e-4,
        clip_norm=1.0,
        decay=(("kernel$", 1.0),),
        lr_mults=(),
        freeze=(),
    )
    config.schedule = dict(name="cosine", warmup="3%")

    config.evaluation = dict(every="100%", batch_size=256)
    set_images(config, SIZE, AFFINE)
    everything = emoji("all", unit="entry")  # the classes: every name there is
    config.evals = dict(
        images=dict(
            type="zeroshot",
            source=emoji("images"),
            label="name",
            class_source=everything,
            canonical=False,
        ),
        style=dict(
            type="zeroshot",
            source=emoji("style"),
            label="name",
            class_source=everything,
            canonical=False,
        ),
        concepts=dict(
            type="zeroshot",
            source=emoji("concepts"),
            label="name",
            class_source=everything,
            canonical=False,
        ),
        style_retrieval=dict(type="retrieval", source=emoji("style")),
        style_contrastive=dict(type="contrastive", source=emoji("style"), loss="sigmoid"),
        gender=dict(
            type="bias",
            source=emoji("style"),
            attribute="gender",
            stereotypes=(sorted(WOMEN_ROLES), sorted(MEN_ROLES)),  # of the biased variant
        ),
        tone=dict(type="bias", source=emoji("style"), attribute="tone"),
        gender_probe=dict(
            type="probe",
            source=emoji("style"),
            train_source=emoji("train", unit="image"),
            label="gender",
        ),
    )
    config.log_every = "20 steps"
    config.checkpoint = dict(every="25%", keep=2)
    return config
