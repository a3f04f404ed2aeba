"""SigLIP B/16 on data balanced by M4: the rows of "CLIP the Bias" with SigLIP's loss, for data of yours.

    python tools/annotate.py --source array_record path='data/filtered/*.array_record' \\
        --out runs/siglip_b16_m4/annotations.parquet --report runs/siglip_b16_m4/annotations
    for list in balanced proxies; do
        [ $list = balanced ] && only=--no-proxies || only=
        python tools/balance.py --annotations runs/siglip_b16_m4/annotations.parquet $only \\
            --out runs/siglip_b16_m4/$list.parquet --eta 0.9 --min-per-side 10
    done
    python -m bias_clip.train --config=configs/siglip_b16_m4.py:balanced,100 --workdir=/mnt/runs/m4_100 \\
        --config.data.text.tokenizer=gs://bucket/c4_en.model

After the colon: the data, and how many percent of the run the balanced ones last, from its start.

    plain,0             the baseline                   balanced,10         then 90 % plain: what remains?
    balanced,100        balanced throughout            balanced,90         then 10 % plain: what is lost?
    proxies,100         and decorrelated from proxies  balanced_last,10    plain, balanced from 10 % on
    proxies,10 and 90   as balanced                    balanced_last,90    plain, the last 10 % balanced

The paper's rows are plain and balanced, each with and without a filter of pairs whose image and text
do not match: point --config.data.source.path, and the tables, at the one or the other. Three seeds are
--config.seed=0, 1 and 2. All runs see as many examples.

Expected result: with WebLI, which is not public, and the filter: ImageNet zero-shot 77 % plain and 77.5 %
balanced, COCO image to text R@5 86 and 87 % [P]. Not reproduced by us: we have neither the data nor the
chips. What `configs/m4_people.py` shows on a small scale is in docs/m4.md.

Sources of the numbers: [P] the paper, Alabdulmohsin et al. 2024: its abstract, and what reviews and
summaries restate of the text, which we could not read, so that no section or table is named here.
Number of examples, batch, learning rate, resolution and prompts are not known to us, and are those of
configs/siglip_b16.py [S], marked there. [F] Wang et al. 2025 (WebLI-100B), which evaluates by that
paper's metrics. [O] ours, where none says.
"""

from bias_clip.evals.bias.association import PAIRS
from configs.siglip_b16 import get_config as get_siglip

TABLES = "runs/siglip_b16_m4"
DATA = ("plain", "balanced", "proxies", "balanced_last", "proxies_last")


def get_config(arguments="balanced,100"):
    data, percent = read_arguments(arguments)
    config = get_siglip()  # [S] 9e9 examples, batch 32,768, 224 px, embeddings of 768 [P]
    config.data.source.path = "data/filtered/*.array_record"  # yours: tools/export_array_record.py
    config.data.balance = balance(TABLES, data, percent)
    config.evals = evals("data/{}.array_record")
    return config


def balance(tables, data, percent):
    """Arguments of `make_plan`; the table keeps 90 % [P], some examples are seen again instead [P]."""
    if data == "plain":
        return None
    last = data.endswith("_last")
    return dict(
        table=f"{tables}/{data.removesuffix('_last')}.parquet",
        use="thin",  # [P]
        seed=0,  # [O] of the draw
        first="plain" if last else "balanced",
        switch=f"{percent}%" if percent < 100 else None,  # [P] 10 and 90 %
    )


def evals(path):
    """Quality and bias as the paper reports them, on files of yours.

    ImageNet with the column label (names in words), COCO with all captions, FairFace with the column gender.
    """
    imagenet, coco, fairface = (
        dict(name="array_record", path=path.format(name))
        for name in ("imagenet_validation", "coco_test", "fairface_validation")
    )
    return dict(
        imagenet=dict(
            type="zeroshot", source=imagenet, label="label", templates="photo"
        ),  # [P] prompts [O]
        coco=dict(type="retrieval", source=coco),  # [P]
        imagenet_preference=dict(type="representation", source=imagenet),  # [F] prompts [O]
        fairface_association=dict(  # [F] prompts [O]
            type="association", source=fairface, by="gender", groups=("Male", "Female"), pairs=PAIRS
        ),
        fairface_gender=dict(  # [P] recognition must not suffer
            type="groups",
            source=fairface,
            label="gender",
            by="gender",
            groups=("Male", "Female"),
        ),
    )


def read_arguments(arguments):
    parts = arguments.split(",")
    known = len(parts) == 2 and parts[0] in DATA and parts[1].isdigit()
    if not known or int(parts[1]) > 100 or (parts[0] == "plain") != (parts[1] == "0"):
        raise ValueError(
            f"got {arguments!r} after the colon; expected 'plain,0', or one of {DATA[1:]} and a "
            "percentage from 1 to 100, such as 'balanced,90'."
        )
    if parts[0].endswith("_last") and parts[1] == "100":
        raise ValueError(
            f"got {arguments!r} after the colon; that is 'plain,0' and never balanced."
        )
    return parts[0], int(parts[1])
