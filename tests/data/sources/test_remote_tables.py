"""Tables, Parquet and the images that they name, read from a web server on this machine."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bias_clip.core.remote import RemoteError
from bias_clip.data.image import encode_png
from bias_clip.data.sources import make_source
from tests.data.sources.range_server import running
from tests.data.tiny import Patches

IMAGES = [encode_png(Patches(6)[i]["image"]) for i in range(6)]
TEXTS = [f"caption {i}" for i in range(6)]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "data").mkdir()
    for number, image in enumerate(IMAGES):
        (folder / "data" / f"{number}.png").write_bytes(image)
    (folder / "secret.png").write_bytes(IMAGES[0])
    names = [*(f"{i}.png" for i in range(6)), "../secret.png", "%2e%2e/secret.png", "none.png"]
    rows = "".join(f"{name},x\n" for name in names)
    (folder / "data" / "t.csv").write_text("image,caption\n" + rows)
    table = pa.table({"image": pa.array([{"bytes": x} for x in IMAGES]), "text": TEXTS})
    pq.write_table(table, folder / "data" / "t.parquet", row_group_size=2)
    with running(folder) as address:
        yield address


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_table_and_its_images_are_read_from_a_server(served):
    source = make_source(name="table", path=f"{served}/data/t.csv")
    assert [source[i]["image"] for i in range(6)] == IMAGES
    found = source.read_many([8, 0, 5, 0])
    assert isinstance(found[0], ValueError)
    assert [record["image"] for record in found[1:]] == [IMAGES[i] for i in (0, 5, 0)]
    for row in (6, 7):
        with pytest.raises(ValueError, match="outside of"):
            source[row]
    with pytest.raises(ValueError, match=r"none\.png.*404"):
        source[8]


def test_addresses_in_a_table_are_read_only_where_they_are_allowed(served, tmp_path):
    rows = f"{served}/data/0.png,x\n{served}/secret.png,x\n"
    (tmp_path / "t.csv").write_text("url,caption\n" + rows)
    source = make_source(name="table", path=str(tmp_path / "t.csv"))
    with pytest.raises(ValueError, match=r"outside of.*roots"):
        source[0]
    source = make_source(name="table", path=str(tmp_path / "t.csv"), roots=[f"{served}/data"])
    assert source[0]["image"] == IMAGES[0]
    with pytest.raises(ValueError, match="outside of"):
        source[1]


def test_parquet_is_read_from_a_server_in_spite_of_failures(served):
    for path in ("data/t.parquet", "fail=503,cut/data/t.parquet"):
        source = make_source(name="parquet", path=f"{served}/{path}")
        found = [(source[i]["image"], source[i]["captions"]) for i in range(6)]
        assert found == [(x, (t,)) for x, t in zip(IMAGES, TEXTS, strict=True)]


@pytest.mark.parametrize("name", ["table", "parquet"])
def test_an_object_that_is_not_there_is_named(served, name):
    with pytest.raises(RemoteError, match=r"none\.parquet.*404"):
        make_source(name=name, path=f"{served}/none.parquet")
