"""The main job in stages (MCL): what a stage has learned to tell apart is no help to the next.

    python tools/multistage.py --config=configs/emoji_stages.py --workdir=runs/mcl --stages 3 --k 4

Zhang et al. 2024 (Learning the Unlearned): after each stage its images are clustered, and the next one
is trained on batches of one cell of all clusters so far. Cells smaller than a batch are merged with a
sibling: 4 x 4 cells of 3,586 entries have 224 on average, in batches of 128.

After the colon: "0" for the plain stage, "1" for later ones, which the tool gives their table.

Expected result: not measured yet.
"""

from configs.emoji import get_config as get_emoji


def get_config(arguments="0"):
    config = get_emoji()
    config.total = "90_000 examples"  # a third of the main job's: three stages cost as much
    return set_stage(config, arguments)


def set_stage(config, arguments):
    """Makes the config that of a stage: "0", "1", or "1,init" where weights are given."""
    stage, *rest = arguments.split(",")
    if stage not in ("0", "1") or rest not in ([], ["init"]):
        raise ValueError(f"got {arguments!r} after the colon; expected '0', '1' or '1,init'.")
    if stage == "1":
        config.data.cells = dict(table="", mode="batch", small="merge", sequence="shuffle")
    if rest:
        config.init_from = dict(path="")  # the tool says where
    return config
