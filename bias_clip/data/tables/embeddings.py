"""Embeddings of a data set on disk: shards of rows, and the manifest that describes them.

    <directory>/plan.json            what they are of, written first
    <directory>/image-00000.npy      [rows, d] of unit norm; text-00000.npy likewise
    <directory>/rows-00000.parquet   id, image_norm, text_norm: a table, with its own manifest
    <directory>/manifest.json        written last: a directory without one is unfinished

`embeddings_writer` writes them. `image[i] * image_norm[i]` is the output of the tower before it was
normalised. Concatenating the features of several models needs both forms.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from bias_clip.core.json_object import read_object
from bias_clip.data.tables.table import KEY, SHOWN, file_sha256, fingerprint, read_table

VERSION = 2  # 2: with sums of the shards
KIND = "embeddings"
SHARD_KIND = "shard of embeddings"
MODALITIES = ("image", "text")


class ShardedRows:
    """A matrix [n, d] of memory-mapped consecutive parts; `np.asarray` reads all of it."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = tuple(parts)
        self.shape = (sum(map(len, self.parts)), self.parts[0].shape[1])
        self.dtype = self.parts[0].dtype
        self.ndim = 2
        self._starts = np.cumsum([0, *map(len, self.parts)])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """One row, or the rows of a slice or of an array of row numbers or booleans."""
        if isinstance(index, slice) and index.step in (None, 1):
            return self._between(*index.indices(len(self))[:2])
        if not isinstance(index, slice) and np.ndim(index) == 0:
            row = range(len(self))[index]
            place = np.searchsorted(self._starts, row, side="right") - 1
            return self.parts[place][row - self._starts[place]]
        # Lets NumPy resolve slices with a step, booleans and negative numbers.
        rows = np.arange(len(self))[index]
        place = np.searchsorted(self._starts, rows, side="right") - 1
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        for part in np.unique(place):
            mine = place == part
            out[mine] = self.parts[part][rows[mine] - self._starts[part]]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self._between(0, len(self))
        return whole if dtype is None else whole.astype(dtype)

    def _between(self, start: int, stop: int) -> np.ndarray:
        pairs = zip(self._starts[:-1], self.parts, strict=True)
        found = [part[max(start - first, 0) : max(stop - first, 0)] for first, part in pairs]
        found = [part for part in found if len(part)]
        # Within one part the result is a view of the mapped file; only rows across parts are copied.
        return found[0] if len(found) == 1 else np.concatenate(found or [self.parts[0][:0]])


class Embeddings(NamedTuple):
    """Embeddings of a data set, row i of each field for the example ids[i].

    Attributes:
      ids: unique ids of the examples.
      image: unit-norm image embeddings [n, d], memory-mapped; None if images were not embedded.
      text: the same for the first captions.
      manifest: version, kind, rows, width, dtype, modalities, norms, shards (rows of each), sums
        (SHA-256 of the files of each, by name), ids_sha256, broken (record to reason, of those without a row), plan: what they are of, and
        notes.
      image_norm: norms of the image features before they were normalised, [n].
      text_norm: the same for the texts.
    """

    ids: list[str]
    image: ShardedRows | None
    text: ShardedRows | None
    manifest: dict[str, Any]
    image_norm: Float32[np.ndarray, " n"] | None
    text_norm: Float32[np.ndarray, " n"] | None


def open_embeddings(directory: str | Path) -> Embeddings:
    """Opens finished embeddings; the matrices stay on disk until they are read.

    Raises: ValueError if there are none, they are unfinished or of another version, or a shard is
      missing, cut off or not the one that the manifest describes.

        for z in chunks(open_embeddings("runs/emoji/embeddings"), "image", rows=65536): ...
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    _check_sums(directory, manifest)
    tables = [_read_rows(directory, i) for i in range(len(manifest["shards"]))]
    ids = [name for table in tables for name in table[KEY].tolist()]
    # Each shard may be sound by itself and still be of another run.
    if fingerprint(ids) != manifest["ids_sha256"]:
        raise ValueError(
            f"the rows of {directory} are not those of its manifest: a shard was replaced or changed. "
            "Copy the directory whole, or delete it and embed again."
        )
    found: dict[str, Any] = dict.fromkeys(("image", "text", "image_norm", "text_norm"))
    for name in manifest["modalities"]:
        found[name] = ShardedRows([_map(directory, name, i, manifest) for i in range(len(tables))])
        found[f"{name}_norm"] = np.concatenate([table[f"{name}_norm"] for table in tables])
    return Embeddings(ids=ids, manifest=manifest, **found)


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """Returns the manifest of finished embeddings; raises ValueError as `open_embeddings`."""
    path = Path(directory) / "manifest.json"
    if not path.parent.is_dir():
        raise ValueError(f"there are no embeddings {path.parent}; write them with tools/embed.py.")
    if not path.is_file():
        raise ValueError(
            f"the embeddings {path.parent} are unfinished: there is no {path.name}. Run the command "
            "that writes them again: it continues where it stopped. If they were copied, copy it too."
        )
    manifest = read_object(path, advice="copy it again, or delete the folder and embed again")
    got = (manifest.get("kind"), manifest.get("version"))
    if got != (KIND, VERSION):
        raise ValueError(
            f"{path} is of kind and version {got}, expected {(KIND, VERSION)}; embed again with this "
            "version of the library."
        )
    _check_manifest(path, manifest)
    return manifest


def chunks(embeddings: Embeddings, name: str, rows: int) -> Iterator[Float32[np.ndarray, "m d"]]:
    """Yields a modality in chunks of `rows` rows, in order, as float32; the last may be shorter.

    Raises: ValueError for a modality that was not embedded, or rows below 1.
    """
    matrix = {"image": embeddings.image, "text": embeddings.text}.get(name)
    if matrix is None:
        raise ValueError(
            f"no embeddings of {name!r}; there are {embeddings.manifest['modalities']}."
        )
    if rows < 1:
        raise ValueError(f"got rows={rows}, expected at least 1.")
    for start in range(0, len(matrix), rows):
        # float32 whatever the disk has, so that sums over chunks have one precision.
        yield np.asarray(matrix[start : start + rows], np.float32)


def check_finite(what: str, ids: Sequence[str], rows: np.ndarray) -> None:
    """Raises ValueError, naming some of the ids, if a row [d] of [n, d] is not finite."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(rows)} {what} embeddings are not finite, such as of "
            f"{[ids[i] for i in bad[:SHOWN]]}; the parameters have diverged: embed again from an "
            "earlier checkpoint."
        )


def shard_path(directory: Path, name: str, number: int) -> Path:
    """The path of a shard of a modality, or of "rows"."""
    return directory / f"{name}-{number:05d}.{'parquet' if name == 'rows' else 'npy'}"


def shard_sums(directory: Path, number: int, modalities: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the matrices of a shard, by modality."""
    return {name: file_sha256(shard_path(directory, name, number)) for name in modalities}


def _check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    kinds = {"rows": int, "width": int, "dtype": str, "modalities": list, "shards": list}
    kinds |= {"sums": list, "ids_sha256": str, "plan": dict}
    # `type`, because isinstance takes True as an integer.
    wrong = [key for key, kind in kinds.items() if type(manifest.get(key)) is not kind]
    if not wrong and not all(name in MODALITIES for name in manifest["modalities"]):
        wrong = ["modalities"]
    if not wrong and not all(type(rows) is int and rows > 0 for rows in manifest["shards"]):
        wrong = ["shards"]
    if not wrong:
        files = {"rows", *manifest["modalities"]}
        sound = [isinstance(sums, dict) and set(sums) == files for sums in manifest["sums"]]
        wrong = [] if all(sound) and len(sound) == len(manifest["shards"]) else ["sums"]
    if wrong:
        raise ValueError(
            f"{path} is not a manifest of embeddings: {wrong} are missing or of another type; copy it "
            "again, or delete the folder and embed again."
        )


def _check_sums(directory: Path, manifest: Mapping[str, Any]) -> None:
    for number, sums in enumerate(manifest["sums"]):
        for name, expected in sums.items():
            path = shard_path(directory, name, number)
            if path.is_file() and file_sha256(path) != expected:
                raise ValueError(
                    f"the shard {path} is cut off, changed, or of other embeddings: its sum is not that "
                    "of the manifest. Copy it again, or delete the folder and embed again."
                )


def _read_rows(directory: Path, number: int) -> dict[str, np.ndarray]:
    return read_table(shard_path(directory, "rows", number), kind=SHARD_KIND).columns


def _map(directory: Path, name: str, number: int, manifest: Mapping[str, Any]) -> np.ndarray:
    path, expected = (
        shard_path(directory, name, number),
        (manifest["shards"][number], manifest["width"]),
    )
    if not path.is_file():
        raise ValueError(
            f"the shard {path} is missing; copy it here, or delete {directory} and embed again."
        )
    try:
        # Mapped: a run over millions of rows reads only those it uses. A pickle could run any program.
        part = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"the shard {path} is cut off: {error}; copy it again.") from error
    if part.shape != expected or part.dtype != manifest["dtype"]:
        raise ValueError(
            f"the shard {path} is {part.dtype}{list(part.shape)}, its manifest says "
            f"{manifest['dtype']}{list(expected)}; it is of other embeddings: copy it again."
        )
    return part
