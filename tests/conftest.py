"""Eight simulated devices, shape checking on, and the flags that grain's workers want."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

from jaxtyping import install_import_hook

install_import_hook(["bias_clip.losses", "bias_clip.models"], "beartype.beartype")

from absl import flags

flags.FLAGS(["pytest"])
