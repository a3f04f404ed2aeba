"""Every key of a config at its default: a view of the schema, `bias_clip/train/options/schema.py`.

    python -m bias_clip.train --config=configs/default.py --workdir=runs/default

A config of yours, in any folder, starts from the same function:

    from bias_clip.train.options.schema import default_config

    def get_config():
        config = default_config()
        config.batch_size = 512
        return config
"""

from bias_clip.train.options.schema import default_config


def get_config():
    return default_config()
