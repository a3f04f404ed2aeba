"""Fine-tunes any published SigLIP or CLIP, or tunes only its text tower (LiT), on data of yours.

    python -m bias_clip.train --config=configs/finetune.py:hf://google/siglip2-base-patch16-224 \\
        --workdir=runs/tuned --config.data.source.name=webdataset --config.data.source.path='data/*.tar'

After the colon: the path of the checkpoint, and words behind commas:

    lit           the image tower is frozen: no optimiser state, no backward pass
    slow_image    the image tower learns at a tenth of the learning rate
    balanced      on weights of M4: give --config.data.balance.table=weights.parquet (tools/balance.py)
    tokenizer=F   the vocabulary, for a checkpoint that has none beside its weights

Model, preprocessing and tokenizer are the checkpoint's. Whatever you override is logged and stands in the
report. A run that continues reads its own state; it needs only the checkpoint's header and vocabulary,
by which this file makes the same config again.

The loss is that of the family. The numbers below are ours and a start, not a published recipe: tune the
learning rate first. Evaluators are of your data: evaluate with `tools/evaluate.py --config`.
"""

from bias_clip.pretrained import inspect_pretrained
from bias_clip.train.options.schema import default_config
from bias_clip.train.workdir.load_model import adopt

WORDS = ("lit", "slow_image", "balanced")


def get_config(argument=""):
    path, *words = argument.split(",")
    given = [word.removeprefix("tokenizer=") for word in words if word.startswith("tokenizer=")]
    words = [word for word in words if not word.startswith("tokenizer=")]
    if not path or not set(words) <= set(WORDS) or {"lit", "slow_image"} <= set(words):
        raise ValueError(
            f"got {argument!r} after the colon; expected the path of a checkpoint, then words of {WORDS} "
            "behind commas, such as 'hf://google/siglip2-base-patch16-224,lit'."
        )
    config = default_config()
    tokenizer = given[-1] if given else None
    loaded = inspect_pretrained(path, tokenizer=tokenizer)
    if loaded.tokenizer is None or loaded.preprocess is None:
        raise ValueError(f"{path} cannot be trained on pairs as it is. {' '.join(loaded.notes)}")
    adopt(config, loaded)
    config.init_from = dict(path=path, tokenizer=tokenizer)
    config.total, config.batch_size = "2_000 steps", 256
    config.optimizer.lr = 1e-5
    config.optimizer.weight_decay = 1e-6  # not multiplied by lr: 0.1 for PyTorch's AdamW
    if loaded.family == "clip":
        config.objective = dict(softmax=dict(coef=1.0, duplicates="keep"))
    if "lit" in words:
        config.optimizer.freeze = ("^img/",)
    if "slow_image" in words:
        config.optimizer.lr_mults = (("^img/", 0.1),)
    if "balanced" in words:
        config.data.balance = dict(table="", use="thin", seed=0)  # you give the table
    return config
