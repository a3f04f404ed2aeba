"""Readers of files that come from outside: what is right is exact, what is wrong is one line."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bias_clip.pretrained.files import safetensors
from bias_clip.pretrained.files.read import read_weights, shard_names
from tests.pretrained.cases import GOLDEN, arrays

PT = GOLDEN / "pt_files"
SMALL = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((), np.float16)}


@pytest.mark.parametrize("name", ["zip.pt", "zip_plain_dict.bin", "zip_training.pt"])
def test_archives_of_torch_give_its_tensors(name):
    got, expected = arrays(PT / name), dict(np.load(PT / "expected.npz"))
    assert set(got) == set(expected)
    for key, array in expected.items():
        assert got[key].shape == array.shape
        np.testing.assert_array_equal(got[key].astype(array.dtype), array, err_msg=key)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hostile.pt", "names posix.system"),
        ("hostile_legacy.pt", "bare pickle"),
        ("legacy.pt", "torch before 1.6"),
        ("pickled_module.pt", "names torch.nn.modules.linear.Linear, which is a whole module"),
        ("torchscript.pt", "TorchScript archive"),
    ],
)
def test_what_is_not_a_list_of_tensors_is_refused(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_weights([PT / name])
    assert not list(tmp_path.iterdir())  # nothing ran


def test_npz_is_what_numpy_reads(tmp_path):
    given_ = {
        "layer/kernel": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "one": np.float32(3.0),
        "none": np.zeros((0, 3), np.int64),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **given_)
        got = arrays(tmp_path / "x.npz")
        for name, array in given_.items():
            np.testing.assert_array_equal(got[name], array)
            assert got[name].dtype == array.dtype


def test_objects_in_npz_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "x.npz", fine=np.zeros(2), bad=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"x\.npz: array 'bad' holds Python objects"):
        read_weights([tmp_path / "x.npz"])


def test_an_array_that_claims_more_than_its_member_is_refused(tmp_path):
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**40,)}
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, archive.open("a.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(16))
    with pytest.raises(
        ValueError, match=r"x\.npz: array 'a'.* takes 4398046511104 bytes, and has 16"
    ):
        read_weights([tmp_path / "x.npz"])


def test_safetensors_round_trip(tmp_path):
    safetensors.write(tmp_path / "x.safetensors", SMALL, {"format": "pt"})
    got = arrays(tmp_path / "x.safetensors")
    for name, array in SMALL.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].dtype == array.dtype


def _raw(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _entry(shape=(2,), dtype="F32", offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": _entry(offsets=(0, 16), shape=(4,))}, "'a' ends at byte .* cut off"),
        ({"a": _entry(), "b": _entry(offsets=(4, 12))}, "'b' ends at byte"),
        ({"a": _entry(), "b": _entry((1,), offsets=(4, 8))}, "'b' overlaps 'a'"),
        ({"a": _entry((1,), offsets=(4, 8))}, "'a' leaves a gap after 'the header'"),
        ({"a": _entry((1,), offsets=(0, 4))}, "4 bytes after tensor 'a' belong to none"),
        ({"a": _entry((2**40,))}, "'a' of F32 and shape .* takes 4398046511104 bytes, and has 8"),
        ({"a": _entry(dtype="F33")}, "'a' has dtype 'F33'"),
        ({"a": _entry((-2,))}, "'a' has shape"),
        ({"a": _entry((True, 2))}, "'a' has shape"),
        ({"a": 5}, "'a' is without dtype"),
        (b'{"a": 1, "a": 2}', "a name occurs twice"),
        (b"{" + b'"a":{' * 100_000, "cannot be read"),
        (b"[]", "not a table|expected a safetensors"),
    ],
)
def test_a_header_that_is_wrong_is_one_line_with_file_and_tensor(tmp_path, header, message):
    _raw(tmp_path / "x.safetensors", header, bytes(8))
    with pytest.raises(ValueError, match=message) as error:
        read_weights([tmp_path / "x.safetensors"])
    assert "x.safetensors" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_header_that_claims_terabytes_is_refused_before_memory_is_taken(tmp_path):
    (tmp_path / "x.safetensors").write_bytes((2**42).to_bytes(8, "little") + b"{}" + bytes(40))
    with pytest.raises(ValueError, match="claims 4398046511104 bytes of a file of 50"):
        read_weights([tmp_path / "x.safetensors"])


@pytest.mark.parametrize("name", ["weights.npz", "weights.pt", "weights.safetensors"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name} is empty"):
        read_weights([tmp_path / name])


def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    for name in ("../x.safetensors", "/etc/passwd", "a/b", "..", 5):
        path.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ValueError, match="expected a name without a folder"):
            shard_names(path)


def _samples(tmp_path):
    safetensors.write(tmp_path / "x.safetensors", SMALL, {})
    np.savez(tmp_path / "x.npz", **SMALL)
    np.savez_compressed(tmp_path / "z.npz", **SMALL)
    for name in ("zip.pt", "hostile.pt", "pickled_module.pt"):
        shutil.copy(PT / name, tmp_path / name)
    return sorted(path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.slow
@settings(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_anywhere_is_a_value_error_or_tensors(tmp_path, data):
    """No other error, no memory: bytes of real files are changed, dropped, put in or cut off."""
    folder = tmp_path / "samples"
    if not folder.exists():
        folder.mkdir()
        _samples(folder)
    samples = sorted(path for path in folder.iterdir())
    damaged = bytearray(data.draw(st.sampled_from(samples)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        new = data.draw(st.binary(max_size=9))
        damaged[place : place + data.draw(st.integers(0, 9))] = new
    (tmp_path / "damaged").write_bytes(bytes(damaged))
    total, message = 0, "damaged"
    try:
        tensors = read_weights([tmp_path / "damaged"]).tensors
        total = sum(np.asarray(tensor.array()).nbytes for tensor in tensors.values())
    except ValueError as error:
        message = str(error)
    assert "damaged" in message
    assert total < 2**22
