"""The main job in stages (MCL): a later stage cannot use the features that earlier ones learned.

    python tools/multistage.py --config=configs/emoji_stages.py --workdir=runs/mcl --stages 3 --k 4

Zhang et al. 2024 (Learning the Unlearned): each stage clusters its images, and the next stage trains on
batches from one cell of all clusters so far. Cells smaller than a batch are merged with a sibling: 4 x 4
cells of 3,586 entries have 224 on average, and a batch has 128.

After the colon: "0" for the plain stage, "1" for later stages; the tool passes their table.

Expected result: not measured yet.
"""

from configs.emoji import get_config as get_emoji


def get_config(arguments="0"):
    config = get_emoji()
    config.total = "150_000 examples"  # a third of the main job's: three stages cost as much
    return set_stage(config, arguments)


def set_stage(config, arguments):
    """Returns the config of a stage: "0", "1", or "1,init" to start from given weights."""
    stage, *rest = arguments.split(",")
    if stage not in ("0", "1") or rest not in ([], ["init"]):
        raise ValueError(f"got {arguments!r} after the colon; expected '0', '1' or '1,init'.")
    if stage == "1":
        config.data.cells = dict(table="", mode="batch", small="merge", sequence="shuffle")
    if rest:
        config.init_from = dict(path="")  # the tool sets the path
    return config
