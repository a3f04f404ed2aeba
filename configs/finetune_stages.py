"""Multistage contrastive learning that starts from a published checkpoint, on data of yours.

    python tools/multistage.py --config=configs/finetune_stages.py --start=hf://openai/clip-vit-base-patch16 \\
        --workdir=runs/mcl --stages 3 --k 10 --set data.source.name=webdataset 'data.source.path=data/*.tar'

Stage 0 fine-tunes the checkpoint on whole batches, later stages within cells. With `--init scratch` every
stage starts from the checkpoint itself, with `base` from stage 0, with `warm` from the stage before. What
`configs/finetune.py` takes behind commas, such as `lit`, may stand behind the path.
"""

from configs.finetune import get_config as get_finetune


def get_config(argument="0"):
    stage, *rest = argument.split(",")
    is_run = rest[:1] == ["init"]  # the tool gives the run to start from
    config = get_finetune(",".join(rest[1:] if is_run else rest))
    if stage != "0":
        config.data.cells = dict(table="")  # the tool sets the path
    if is_run:
        config.init_from = dict(path="")
    return config
