"""What the launchers would do, and that they start again after status 75 and only then."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bias_clip.cli.launch import checks, ray, tpu_vm
from bias_clip.cli.launch.__main__ import main
from bias_clip.cli.launch.job import NEW_TOKEN, Job, until_done

COMMON = ["--name=siglip", "--config=configs/siglip_b16.py", "--workdir=/data/siglip"]
FLAGS = ["--", "--config.seed=1", "--config.total=1e6 examples"]
LINE = [
    "-m",
    "bias_clip.train",
    "--config=configs/siglip_b16.py",
    "--workdir=/data/siglip",
    "--config.seed=1",
    "--config.total=1e6 examples",
]
TPU = ["--tpu=tpu-v5-lite-podslice", "--topology=16x16"]
PLACES = {
    "slurm": ["--nodes=4"],
    "kubernetes": ["--image=eu.gcr.io/us/clip:1", *TPU],
    "tpu_vm": [
        "--zone=europe-west4-b",
        "--accelerator=v5litepod-256",
        "--runtime=v2-alpha-tpuv5-lite",
    ],
    "ray": ["--hosts=4", "--resource=GPU=8"],
}


@pytest.fixture
def show(capsys, monkeypatch):
    """What a launcher prints; it must start nothing."""

    def forbidden(*args, **_):
        raise AssertionError(args)

    monkeypatch.setattr(subprocess, "run", forbidden)
    monkeypatch.setattr(checks, "_check_committed", lambda _: None)  # asks git
    monkeypatch.setattr(checks, "_check_config", lambda _: None)  # loads the config each time

    def shown(where, *own, common=COMMON):
        assert main([where, *common, *own, *FLAGS]) == 0
        return capsys.readouterr().out

    return shown


@pytest.mark.parametrize("where", PLACES)
def test_every_launcher_shows_the_line_and_runs_nothing_unless_told(where, show):
    assert show(where, *PLACES[where]) == show(where, *PLACES[where], "--dry-run")
    out = show(where, *PLACES[where])
    for word in LINE:
        assert word in out


def test_slurm_script_queues_again_after_75_and_is_valid_shell(show):
    out = show("slurm", *PLACES["slurm"], "--partition=gpu", "--setup=source .venv/bin/activate")
    head, script = out.split("<<'END'\n")
    script = script.removesuffix("END\n")
    assert head.endswith("sbatch ")
    for option in ("nodes=4", "ntasks-per-node=1", "gpus-per-node=8", "partition=gpu"):
        assert f"#SBATCH --{option}\n" in script
    assert "account" not in script
    assert "#SBATCH --signal=TERM@120\n" in script
    assert 'if [ $status -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi' in script
    (srun,) = [line for line in script.splitlines() if line.startswith("srun")]
    assert shlex.split(srun)[3:] == LINE


def slurm_status(tmp_path, show, status):
    """Runs the script with an srun that ends with `status`; returns its end and what it queued."""
    script = show("slurm", *PLACES["slurm"]).split("<<'END'\n")[1].removesuffix("END\n")
    for name, line in {"srun": f"exit {status}", "scontrol": f"echo $@ > {tmp_path}/said"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    process = subprocess.Popen(
        ["bash", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "9"}
    )
    said = tmp_path / "said"
    return process.wait(), said.read_text() if said.exists() else None


@pytest.mark.parametrize(("status", "said"), [(75, "requeue 9\n"), (1, None), (0, None)])
def test_slurm_script_passes_the_status_on(status, said, tmp_path, show):
    assert slurm_status(tmp_path, show, status) == (status, said)


SHARED = {
    "name": "BIAS_CLIP_TOKEN",
    "valueFrom": {"secretKeyRef": {"name": "siglip-token", "key": "token"}},
}


def manifest(show, *own):
    out = show("kubernetes", "--image=eu.gcr.io/us/clip:1", *own)
    return json.loads(out.split("<<'END'\n")[1].removesuffix("END\n"))


def test_jobset_of_a_tpu_slice_has_a_pod_for_each_host(show):
    made = manifest(show, *TPU, "--slices=2")
    (jobs,) = made["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    assert (jobs["replicas"], job["parallelism"], job["completions"]) == (2, 64, 64)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
    }
    (container,) = pod["containers"]
    assert container["command"][1:] == LINE
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert container["env"] == [SHARED]


def test_jobset_of_gpu_nodes_says_who_is_first(show):
    made = manifest(show, "--gpus-per-node=8", "--nodes=4", "--claim=pairs")
    pod = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["env"] == [
        SHARED,
        {"name": "JAX_COORDINATOR_ADDRESS", "value": "siglip-train-0-0.siglip:8476"},
        {"name": "JAX_NUM_PROCESSES", "value": "4"},
    ]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert volumes[mounts["/data"]] == {"persistentVolumeClaim": {"claimName": "pairs"}}
    assert volumes[mounts["/dev/shm"]] == {"emptyDir": {"medium": "Memory"}}


def test_jobset_restarts_for_nothing_after_75_and_counts_other_failures(show):
    spec = manifest(show, *TPU)["spec"]
    policy = spec["failurePolicy"]
    assert policy["maxRestarts"] == 10
    assert policy["rules"][0]["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    rules = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob", "FailJob"]
    assert rules[0]["onExitCodes"]["values"] == [75]


def test_tpu_vm_asks_for_slices_and_trains_on_all_hosts(show):
    own = [*PLACES["tpu_vm"], "--slices=2", "--spot", "--project=p"]
    lines = [x for x in show("tpu_vm", *own).splitlines() if not x.startswith("#")]
    create, _, pack, make, copy, install, train = map(shlex.split, lines)
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "siglip"]
    assert {"--node-count=2", "--node-prefix=siglip", "--spot", "--project=p"} <= set(create)
    assert pack[:2] == ["git", "archive"]
    assert make[-1].endswith("> siglip.token")
    assert {"siglip.tar.gz", "siglip.token", "siglip:"} <= set(copy)
    assert "export BIAS_CLIP_TOKEN=$(cat ~/siglip.token) && " in train[-1]
    for command in (copy, install, train):
        assert {"--worker=all", "--node=all", "--zone=europe-west4-b"} <= set(command)
    remote = train[-1].removeprefix("--command=")
    assert shlex.join(LINE) in remote


def test_every_token_is_another_and_of_128_bits():
    lines = [f"echo {NEW_TOKEN}"] * 2
    one, two = (
        subprocess.run(
            ["sh", "-c", line], capture_output=True, text=True, check=True
        ).stdout.strip()
        for line in lines
    )
    assert one != two
    assert re.fullmatch("[0-9a-f]{32}", one)
    assert re.fullmatch("[0-9a-f]{32}", two)


def test_no_launcher_shows_a_token(show):
    for where, own in PLACES.items():
        assert not re.search(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", show(where, *own))


class Cloud:
    """A gcloud that plays states one after another and notes what else it was asked."""

    def __init__(self, states, statuses):
        self.states, self.statuses, self.asked = list(states), list(statuses), []

    def run(self, command, **_):
        verb = command[4] if command[0] == "gcloud" else command[0]
        code, state = 0, ""
        if verb == "describe":
            state = self.states.pop(0)
        else:
            self.asked.append("train" if "bias_clip.train" in command[-1] else verb)
            code = self.statuses.pop(0) if self.asked[-1] == "train" else 0
        missing = verb == "describe" and not state
        return subprocess.CompletedProcess(
            command, 1 if missing else code, state, "NOT_FOUND" if missing else ""
        )


def run_tpu_vm(monkeypatch, states, statuses):
    cloud = Cloud(states, statuses)
    monkeypatch.setattr(subprocess, "run", cloud.run)
    monkeypatch.setattr(checks, "_check_committed", lambda _: None)
    monkeypatch.setattr(checks, "_check_config", lambda _: None)
    monkeypatch.setattr(tpu_vm, "_POLL", 0.0)
    status = main(["tpu_vm", *COMMON, *PLACES["tpu_vm"], "--run"])
    assert not cloud.states
    return status, cloud.asked


def test_tpu_vm_asks_anew_when_the_slice_was_taken_away(monkeypatch):
    states = ["", "PROVISIONING", "ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE"]
    status, asked = run_tpu_vm(monkeypatch, states, [255, 0])
    once = ["git", "bash", "scp", "ssh", "train"]
    assert (status, asked) == (0, ["create", *once, "delete", "create", *once])


def test_tpu_vm_ends_with_an_error_of_the_training(monkeypatch):
    status, asked = run_tpu_vm(monkeypatch, ["ACTIVE", "ACTIVE", "ACTIVE"], [1])
    assert (status, asked[-1]) == (1, "train")


@pytest.mark.parametrize(("ends", "expected"), [([75, 75, 0], 0), ([75, 3], 3)])
def test_a_host_starts_again_after_75_and_only_then(ends, expected, tmp_path):
    count = tmp_path / "count"
    count.write_text("0")
    code = (
        f"import sys; p = {str(count)!r}; i = int(open(p).read());"
        f"open(p, 'w').write(str(i + 1)); sys.exit({ends}[i])"
    )
    loop = until_done([sys.executable, "-c", code])
    assert subprocess.run(["bash", "-c", loop], check=False).returncode == expected
    assert int(count.read_text()) == len(ends)


def test_ray_numbers_hosts_as_their_tpu_does():
    got = ray.places([("10.0.0.2", "1", 2222), ("10.0.0.1", "0", 1111)])
    assert [place["JAX_PROCESS_ID"] for place in got] == ["1", "0"]
    assert {place["JAX_COORDINATOR_ADDRESS"] for place in got} == {"10.0.0.1:1111"}
    gpus = ray.places([("10.0.0.2", "", 2222), ("10.0.0.1", "", 1111)])
    assert [place["JAX_PROCESS_ID"] for place in gpus] == ["0", "1"]


def test_ray_job_drives_with_our_own_module(show):
    words = shlex.split(show("ray", *PLACES["ray"]).splitlines()[1])
    assert words[:3] == ["ray", "job", "submit"]
    driver = words[words.index("--") + 1 :]
    assert driver[:3] == ["python", "-m", "bias_clip.cli.launch.ray"]
    assert ray.decode(driver[-1].removeprefix("--line="))[1:] == LINE


@pytest.mark.parametrize(
    ("where", "own", "message"),
    [
        ("slurm", ["--nodes=0"], "expected at least 1"),
        ("kubernetes", ["--image=i", "--tpu=t"], "--topology=None"),
        ("kubernetes", ["--image=i", "--tpu=t", "--topology=2x3"], "6 chips, no multiple"),
        ("ray", ["--hosts=2", "--resource=GPU"], "expected a name and a number"),
    ],
)
def test_what_makes_no_sense_is_refused(where, own, message, monkeypatch):
    monkeypatch.setattr(checks, "_check_config", lambda _: None)
    with pytest.raises(SystemExit, match=re.escape(message)):
        main([where, *COMMON, *own])


@pytest.mark.parametrize("where", PLACES)
def test_a_workdir_in_a_bucket_is_handed_on_and_one_elsewhere_refused(where, capsys, monkeypatch):
    monkeypatch.setattr(checks, "_check_committed", lambda _: None)
    monkeypatch.setattr(checks, "_check_config", lambda _: None)
    line = [where, *COMMON[:2], *PLACES[where]]
    assert main([*line, "--workdir=gs://bucket/run"]) == 0
    assert "--workdir=gs://bucket/run" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="got the workdir 's3://bucket/run'; expected a folder"):
        main([*line, "--workdir=s3://bucket/run"])


@pytest.mark.parametrize("name", ["My_run", "a;b", "a'b", "a b", "a\n", "-a", "a-", "a" * 41])
def test_a_name_that_clusters_refuse_is_refused(name):
    with pytest.raises(SystemExit, match="expected at most 40 of a-z"):
        main(["slurm", f"--name={name}", *COMMON[1:], "--nodes=1"])


@pytest.mark.parametrize("value", ["a;b", "a'b", "a b", "a\n#SBATCH --wrap=x", "$(x)", "-x", ""])
def test_a_word_that_no_place_takes_is_refused(value):
    for where, flag in (("slurm", "partition"), ("kubernetes", "image"), ("tpu_vm", "zone")):
        with pytest.raises(SystemExit, match=f"got --{flag}="):
            main([where, *COMMON, *PLACES[where], f"--{flag}={value}"])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.sede=1", "sede"),
        ("--config.data.source.pth=x", "pth"),
        ("--config.batch_size=many", "batch_size"),
    ],
)
def test_an_override_that_the_config_does_not_know_is_refused(flag, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        main(["slurm", *COMMON, "--nodes=1", "--", flag])


def test_what_a_config_leaves_open_must_be_given():
    line = ["slurm", *COMMON, "--nodes=1", "--"]
    given = ["--config.data.source.path=a.array_record", "--config.data.text.tokenizer=c4"]
    for i, key in ((0, "data.text.tokenizer"), (1, "data.source.path")):
        with pytest.raises(SystemExit, match=f"leaves {key} open; add, after --, --config.{key}="):
            main([*line, given[i]])
    assert main([*line, *given]) == 0


def test_a_config_that_is_not_here_is_refused():
    with pytest.raises(SystemExit, match=r"there is no config file configs/none.py here"):
        main(["slurm", "--name=a", "--config=configs/none.py", "--workdir=/w", "--nodes=1"])


@pytest.fixture
def commit(tmp_path, monkeypatch):
    """A repository with one commit, and git as it runs there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.py").write_text("x = 1\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
    return tmp_path


def test_a_commit_is_shipped_only_with_the_config_in_it(commit):
    check = checks._check_committed
    check(Path("configs/a.py"))
    (commit / "configs" / "b.py").write_text("x = 2\n")
    with pytest.raises(ValueError, match=r"configs/b.py is not in the commit"):
        check(Path("configs/b.py"))
    for path in ("/configs/a.py", "../a.py"):
        with pytest.raises(ValueError, match="expected a path inside this repository"):
            check(Path(path))
    (commit / "configs" / "a.py").write_text("x = 3\n")
    with pytest.raises(ValueError, match="changes that are not in the commit"):
        check(Path("configs/a.py"))


def test_a_commit_is_shipped_from_the_top_alone(commit, monkeypatch):
    monkeypatch.chdir(commit / "configs")
    with pytest.raises(ValueError, match="launch from the top"):
        checks._check_committed(Path("a.py"))


def test_arguments_are_quoted_for_the_shell():
    job = Job("a", "c.py", "/a b", ("--config.data.image=decode|resize(8)",))
    script = tpu_vm.plan(job, argparse.Namespace(
        zone="z", project=None, accelerator="v", runtime="r", slices=1, spot=False,
        setup="true", python="python3",
    ))[-1].command[-1]  # fmt: skip
    assert "'--workdir=/a b' '--config.data.image=decode|resize(8)'" in script
