"""Whatever stands in a flag, a path or a setup line arrives as it was, through every shell between."""

import argparse
import collections
import json
import random
import shlex
import string
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_clip.cli.launch import kubernetes, ray, slurm, tpu_vm
from bias_clip.cli.launch.checks import check_launch
from bias_clip.cli.launch.job import Job, Step, shown, train_command
from tests.fuzzing import SEED, count_of

HARD = "'\"\\$`;&|<>(){}[]*?!#~ \n\t=%-aEND"
TEXTS = st.text(st.sampled_from(HARD) | st.characters(codec="utf-8", exclude_characters="\0\r"))
JOBS = st.builds(
    lambda config, workdir, flags: Job("job", f"c{config}", f"w{workdir}", tuple(flags)),
    TEXTS,
    TEXTS,
    st.lists(TEXTS.map(lambda text: f"--config.a={text}"), max_size=3),
)
few = settings(max_examples=25, deadline=None, derandomize=True)
many = settings(max_examples=2000, deadline=None)

# In sh, which starts in a millisecond: name, number of words, words and stdin, a NUL after each.
SAY = """#!/bin/sh
{ printf '%s\\0' "${0##*/}" "$#" "$@"; cat; printf '\\0'; } >> "$SAID"
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Runs a text in bash where all programs only say how they were called; returns that."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("sbatch", "srun", "scontrol", "kubectl", "gcloud", "ray", "git", "python", "py"):
        (folder / name).write_text(SAY)
        (folder / name).chmod(0o755)
    said = folder / "said"

    def run(text):
        said.write_bytes(b"")
        subprocess.run(
            ["bash", "-c", text],
            env={"PATH": f"{folder}:/usr/bin:/bin", "SAID": str(said)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        return list(_read(said.read_bytes().decode().split("\0")))

    return run


def _read(words):
    while len(words) > 1:
        name, count, *rest = words
        yield [name, rest[: int(count)], rest[int(count)]]
        words = rest[int(count) + 1 :]


def arguments(module, line):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(line.split())


SLURM = arguments(slurm, "--nodes=1")
JOBSET = arguments(kubernetes, "--image=i --gpus-per-node=8")
RAY = arguments(ray, "--hosts=1 --resource=GPU=8")
CLOUD = arguments(tpu_vm, "--zone=z --accelerator=v --runtime=r")


def check_shown_is_run(shell, steps):
    """The lines that are shown do what `run` does."""
    expected = [[step.command[0], step.command[1:], f"{step.stdin.rstrip()}\n" if step.stdin else ""]
                for step in steps]  # fmt: skip
    assert shell(shown(steps)) == expected


def check_slurm(shell, job):
    (step,) = slurm.plan(job, SLURM)
    check_shown_is_run(shell, [step])
    name, words, _ = shell(step.stdin)[0]
    assert (name, words[1:]) == ("srun", train_command(job))


def check_kubernetes(shell, job):
    _, step = kubernetes.plan(job, JOBSET)
    check_shown_is_run(shell, [step])
    spec = json.loads(step.stdin)["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert [word.replace("$$", "$") for word in container["command"]] == train_command(job)
    assert not any("$" in word.replace("$$", "") for word in container["command"])


def check_ray(shell, job):
    (step,) = ray.plan(job, RAY)
    check_shown_is_run(shell, [step])
    driver = step.command[step.command.index("--") + 1 :]
    plain = subprocess.list2cmdline(driver)  # as Ray quotes, or quoted it
    assert shell(plain) == [["python", driver[1:], ""]]
    assert ray.decode(driver[-1].removeprefix("--line=")) == train_command(job)


def check_tpu_vm(shell, job):
    steps = [step for step in tpu_vm.plan(job, CLOUD) if step.command[0] != "bash"]
    check_shown_is_run(shell, steps)
    remote = steps[-1].command[-1].removeprefix("--command=")
    remote = remote.replace("cd bias_clip && ", "").replace(".venv/bin/python", "py", 1)
    (said,) = shell(remote.replace("$status -eq 75", "75 -eq 75 ] && exit; [ 0 -eq 0"))
    assert said == ["py", train_command(job)[1:], ""]


CHECKS = [check_slurm, check_kubernetes, check_ray, check_tpu_vm]


@pytest.mark.parametrize("check", CHECKS)
def test_words_arrive_as_they_were(shell, check):
    few(given(JOBS)(lambda job: check(shell, job)))()


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_words_arrive_as_they_were_fuzzed(shell, check, capsys):
    limited, counts = settings(many, max_examples=count_of(300)), collections.Counter()

    def counted(job):
        check(shell, job)
        words = (job.config, job.workdir, *job.flags)
        counts["jobs"] += 1
        counts["words of more than a shell's plain characters"] += sum(
            shlex.quote(w) != w for w in words
        )
        counts["lines"] += sum("\n" in word for word in words)

    limited(given(JOBS)(counted))()
    with capsys.disabled():
        print(f"\n{check.__name__}: {dict(counts)}, all as they were")


@pytest.mark.slow
def test_names_and_words_that_no_place_takes_are_refused_before_anything_is_paid(capsys):
    """Random ones: each that is taken is one plain word for a shell, for JSON and for a cluster."""
    rng, counts = random.Random(SEED), collections.Counter()
    plain = string.ascii_lowercase + string.digits + "-"
    for _ in range(count_of(20_000)):
        letters = rng.choice((plain, plain + HARD, plain + HARD + "é\u202e\udcff\0"))
        word = "".join(rng.choices(letters, k=rng.choice((1, 3, 8, 45))))
        args = argparse.Namespace(partition=word if rng.random() < 0.5 else "gpu", nodes=1)
        name = "a" if args.partition == word else word
        job = Job(name, "docs/none.py", "/w")
        try:
            check_launch(job, args, ships="nothing")
        except ValueError as error:
            counts["refused" if "\n" not in str(error) else "refused in several lines"] += 1
            continue
        counts["taken"] += 1
        (step,) = slurm.plan(job, argparse.Namespace(**{**vars(SLURM), **vars(args)}))
        assert f"--job-name={name}\n" in step.stdin
        assert f"--partition={args.partition}\n" in step.stdin
        assert shlex.split(f"{name} {args.partition}") == [name, args.partition]
    with capsys.disabled():
        print(f"\nnames: {dict(counts)}")
    assert min(counts["taken"], counts["refused"]) > 0
    assert "refused in several lines" not in counts


def test_a_text_that_holds_the_end_of_a_document_is_whole(shell):
    check_shown_is_run(shell, [Step("x\nkubectl injected", ["sbatch"], "a\nEND\nEND_\nb")])


def test_a_setup_line_ends_where_it_ends(shell):
    """A comment or a second line in it swallows nothing of what follows."""
    args = argparse.Namespace(**{**vars(CLOUD), "setup": "git a # b\ngit c", "python": "py"})
    install = tpu_vm.plan(Job("job", "c", "w"), args)[-2].command[-1].removeprefix("--command=")
    said = shell(install.partition("cd bias_clip && ")[2])
    assert [words[:2] for words in said] == [
        ["git", ["a"]],
        ["git", ["c"]],
        ["py", ["-m", "venv", ".venv"]],
    ]
