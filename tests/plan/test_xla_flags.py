"""The flags of XLA per chip: a reason and a source each, and set where the chip's compiler reads them."""

import pytest

from bias_clip.cli.launch.job import Job, train_command
from bias_clip.plan.roofline import CHIPS
from bias_clip.plan.xla_flags import FLAGS, SDC_FLAGS, chip_flags, compiler_options, environment


def test_every_flag_says_why_and_who_says_so():
    flags = [flag for chip in FLAGS.values() for flag in chip] + list(SDC_FLAGS)
    assert set(FLAGS) <= set(CHIPS)
    for flag in flags:
        assert flag.name.startswith("xla_")
        assert flag.reason
        assert flag.source


def test_tpus_and_gpus_read_their_own_variable():
    assert set(environment("v6e")) == {"LIBTPU_INIT_ARGS"}
    assert "--xla_tpu_scoped_vmem_limit_kib=98304" in environment("v6e")["LIBTPU_INIT_ARGS"]
    assert environment("h100") == {"XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true"}
    assert compiler_options("h100") == {"xla_gpu_enable_latency_hiding_scheduler": True}
    with pytest.raises(ValueError, match="no XLA flags for 'v3'"):
        chip_flags("v3")


def test_a_launch_sets_them_only_if_asked():
    job = Job("a", "c.py", "gs://b/c")
    assert train_command(job)[0] == "python"
    line = train_command(job._replace(chip="v5e"))
    assert line[0] == "env"
    assert line[1].startswith("LIBTPU_INIT_ARGS=--xla_tpu_")
    assert line[2:] == train_command(job)
