"""SigLIP So400m/16 at 256 px on a pod: the larger of the published sizes.

    python -m bias_clip.train --config=configs/siglip_so400m.py --workdir=/mnt/runs/so400m \
        --config.data.source.path='/mnt/pairs/*.array_record' \
        --config.data.text.tokenizer=gs://bucket/c4_en.model

Of the So400m that were released, patches of 14 go with 224 and 384 px, patches of 16 with 256 px (SigLIP's
multilingual model, and SigLIP 2 with 256,000 pieces). This is the latter's shape with the English pieces of the former. All
that is not here is as in siglip_b16.py. Does it fit? docs/plans.md.

Expected result: unknown. Nobody has published this model with this data; the multilingual one is not comparable.

Sources of the numbers: [P] Sigmoid Loss for Language Image Pre-Training, 2023; [2] SigLIP 2, 2025; [M] the released
models' shapes; [O] ours.
"""

from configs.siglip_b16 import get_config as get_b16

SIZE = 256  # [M] [2]
IMAGE = f"decode|background(white)|resize({SIZE})|value_range(-1,1)"


def get_config():
    config = get_b16()
    config.total = "40e9 examples"  # [P] of released models, [2]; 1,220,703 steps
    config.data.image = IMAGE
    config.evaluation.image = IMAGE
    config.model.image = dict(variant="So400m/16", size=SIZE, pool="map")  # [M]
    # [M] 1,152 wide, 27 deep, MLP of 4,304, 16 heads, in both towers; 32,000 pieces [P]
    config.model.text = dict(variant="So400m", vocab_size=32_000, length=64, out_dim=1_152)
    config.mesh.fsdp = 16  # [O] docs/plans.md
    return config
