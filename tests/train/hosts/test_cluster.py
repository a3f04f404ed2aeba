"""Which process this is, from the environments that launchers leave."""

import pytest

from bias_clip.train.hosts.cluster import ONE, PORT, Cluster, detect

SLURM = {
    "SLURM_JOB_ID": "4211370",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_NODELIST": "gpu[007-009],login-a",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
}
GKE = {
    "KUBERNETES_SERVICE_HOST": "10.8.0.1",
    "JOB_COMPLETION_INDEX": "1",
    "TPU_WORKER_ID": "1",
    "TPU_WORKER_HOSTNAMES": "siglip-train-0-0.siglip,siglip-train-0-1.siglip",
    "TPU_SKIP_MDS_QUERY": "true",
}
GKE_SLICES = GKE | {
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "siglip-train-0-0.siglip:8471",
}
JOBSET = {
    "KUBERNETES_SERVICE_HOST": "10.8.0.1",
    "JOB_COMPLETION_INDEX": "3",
    "JAX_COORDINATOR_ADDRESS": "siglip-train-0-0.siglip:8476",
    "JAX_NUM_PROCESSES": "4",
}
RAY = {
    "RAY_JOB_ID": "02000000",
    "JAX_COORDINATOR_ADDRESS": "10.0.0.5:41234",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}
METADATA = {
    "agent-worker-number": "1",
    "worker-network-endpoints": "unknown:unknown:10.130.0.7,unknown:unknown:10.130.0.8",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-8'\nZONE: 'europe-west4-b'\n",
}
SLICES = METADATA | {
    "tpu-env": "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
    "MEGASCALE_COORDINATOR_ADDRESS: '10.130.0.3:8080'\n"
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/root"}, ONE),
        (
            SLURM,
            Cluster("gpu007:21370", 2, 4, "slurm", ("gpu007", "gpu008", "gpu009", "login-a")),
        ),
        (
            GKE,
            Cluster(
                f"siglip-train-0-0.siglip:{PORT}",
                1,
                2,
                "tpu",
                ("siglip-train-0-0.siglip", "siglip-train-0-1.siglip"),
            ),
        ),
        (GKE_SLICES, Cluster(f"siglip-train-0-0.siglip:{PORT}", 3, 4, "tpu")),
        (JOBSET, Cluster("siglip-train-0-0.siglip:8476", 3, 4, "kubernetes")),
        (RAY, Cluster("10.0.0.5:41234", 1, 2, "ray")),
        # One host: nothing to join.
        ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, ONE),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, ONE),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.5:1234"}, ONE),
    ],
)
def test_environments_of_launchers_are_read(environ, expected):
    assert detect(environ) == expected


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (METADATA, Cluster(f"10.130.0.7:{PORT}", 1, 2, "tpu_vm", ("10.130.0.7", "10.130.0.8"))),
        (SLICES, Cluster(f"10.130.0.3:{PORT}", 3, 4, "tpu_vm")),
        (METADATA | {"worker-network-endpoints": "t1v-w-0"} | {"agent-worker-number": "0"}, ONE),
    ],
)
def test_a_tpu_vm_is_read_from_its_metadata(metadata, expected):
    assert detect({}, metadata=metadata.__getitem__) == expected


def test_flags_win_over_the_environment():
    got = detect(SLURM, coordinator="a:1", process_id=0, process_count=2)
    assert got == Cluster("a:1", 0, 2, "flags")
    assert detect(SLURM, process_count=1) == ONE


def test_the_metadata_server_is_not_asked_when_the_environment_tells():
    def forbidden(attribute):
        raise AssertionError(attribute)

    assert detect(GKE, metadata=forbidden).kind == "tpu"


@pytest.mark.parametrize("lost", ["coordinator", "process_id", "process_count"])
def test_partial_flags_name_what_is_missing(lost):
    flags = {"coordinator": "a:1", "process_id": 1, "process_count": 2}
    del flags[lost]
    with pytest.raises(ValueError, match=f"without --{lost}; give all three"):
        detect({}, **flags)


def without(environ, key):
    return {name: value for name, value in environ.items() if name != key}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (without(RAY, "JAX_PROCESS_ID"), "environment: JAX_PROCESS_ID is not set|JOB_COMPLETION"),
        (without(RAY, "JAX_NUM_PROCESSES"), "JAX_NUM_PROCESSES is not set, though"),
        (without(RAY, "JAX_COORDINATOR_ADDRESS"), "JAX_COORDINATOR_ADDRESS is not set"),
        (without(GKE, "TPU_WORKER_ID"), "tpu: TPU_WORKER_ID is not set"),
        (without(GKE, "TPU_WORKER_HOSTNAMES"), "TPU_WORKER_HOSTNAMES is not"),
        (without(GKE_SLICES, "MEGASCALE_SLICE_ID"), "MEGASCALE_SLICE_ID is not set"),
        (without(SLURM, "SLURM_STEP_NODELIST"), "start with srun"),
        (without(SLURM, "SLURM_PROCID"), "SLURM_PROCID is not set"),
        (SLURM | {"SLURM_NTASKS": "32"}, "32 tasks on 4 nodes, and each sees 8 GPUs"),
        (SLURM | {"SLURM_PROCID": "4"}, "slurm: got process 4 of 4"),
        (SLURM | {"SLURM_PROCID": "two"}, "SLURM_PROCID='two'; expected an integer"),
        ({"JOB_COMPLETION_INDEX": "0"}, "one of an indexed Job"),
        (JOBSET | {"JAX_PROCESS_ID": "2"}, "contradicts JOB_COMPLETION_INDEX=3"),
        (RAY | {"JAX_COORDINATOR_ADDRESS": "10.0.0.5"}, "expected host:port"),
        (RAY | SLURM, r"contradicts itself \(ray: process 1 of 2, slurm: process 2 of 4\)"),
    ],
)
def test_partial_and_contradictory_environments_are_errors(environ, message):
    with pytest.raises(ValueError, match=message):
        detect(environ)


def test_node_lists_with_several_ranges_keep_their_zeros():
    nodes = SLURM | {"SLURM_STEP_NODELIST": "a[1-2,09],b-3", "SLURM_NTASKS": "4"}
    assert detect(nodes).hosts == ("a1", "a2", "a09", "b-3")
