"""big_vision's `.npz`: names of Flax, layers listed or scanned, kernels with our axes."""

from typing import Any

from bias_clip.pretrained.files.tensors import Tensor
from bias_clip.pretrained.layouts.describe import Described, depth_of, shape_of, square
from bias_clip.pretrained.layouts.table import BLOCKS, FLAT_PATCH_FIRST, ONE, Entry

NAME = "big_vision"

_BLOCK = {
    "norm1/scale": "LayerNorm_0/scale",
    "norm1/bias": "LayerNorm_0/bias",
    "norm2/scale": "LayerNorm_1/scale",
    "norm2/bias": "LayerNorm_1/bias",
    **{
        f"attention/{part}/{leaf}": f"MultiHeadDotProductAttention_0/{part}/{leaf}"
        for part in ("query", "key", "value", "out")
        for leaf in ("kernel", "bias")
    },
    **{
        f"mlp/fc{i + 1}/{leaf}": f"MlpBlock_0/Dense_{i}/{leaf}"
        for i in (0, 1)
        for leaf in ("kernel", "bias")
    },
}
_MAP = {
    "probe": "probe",
    "norm/scale": "LayerNorm_0/scale",
    "norm/bias": "LayerNorm_0/bias",
    **{ours: theirs for ours, theirs in _BLOCK.items() if ours.startswith(("attention", "mlp"))},
}
_ENCODERS = {"img": "img/Transformer", "txt": "txt/Encoder_0"}
_TWO_PARTS = "txt/Encoder_0/pos_embedding"


def subtree(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters, found as by big_vision's own reader: under "params/", "opt/target/", or all."""
    # Checkpoints of training hold optimizer states too, under other prefixes.
    for prefix in ("params/", "opt/target/"):
        if any(name.startswith(prefix) for name in tensors):
            chosen = {name: t for name, t in tensors.items() if name.startswith(prefix)}
            return {name.removeprefix(prefix): tensor for name, tensor in chosen.items()}
    return tensors


def recognises(tensors: dict[str, Tensor]) -> bool:
    """Whether the names are of this layout."""
    names = subtree(tensors)
    return "img/embedding/kernel" in names or "txt/Embed_0/embedding" in names


def describe(tensors: dict[str, Tensor]) -> Described:
    """Reads everything from shapes: the file holds kernels by head, and the family has only one GELU."""
    tensors = subtree(tensors)
    image = _image(tensors) if "img/embedding/kernel" in tensors else None
    text = _text(tensors) if "txt/Embed_0/embedding" in tensors else None
    naflex = image is not None and len(tensors["img/embedding/kernel"].shape) == 2
    if naflex:
        tensors = _flat_positions(tensors)
    entries = []
    if image is not None:
        entries += table_of_image(tensors, scanned=_scanned(tensors, "img"), naflex=naflex)
    if text is not None:
        entries += table_of_text(tensors, scanned=_scanned(tensors, "txt"))
    entries += table_of_scalars()
    return Described(
        layout=NAME,
        family="siglip",
        image=image,
        text=text,
        bias="b" in tensors,
        entries=entries,
        tensors=tensors,
        # Matches nothing: the layout has no tensors besides parameters.
        ignored=r"$^",
        resampling=("linear_antialias" if naflex else "corners", None),
        notes=(),
        source="a file of big_vision",
    )


def table_of_image(names: Any, *, scanned: bool, naflex: bool = False) -> list[Entry]:
    """The table of the image tower; `names` says whether it ends in a MAP head and a projection."""
    patch = FLAT_PATCH_FIRST if naflex else None
    found = [
        Entry("img/embedding/kernel", "img/embedding/kernel", patch),
        Entry("img/embedding/bias", "img/embedding/bias"),
        Entry("img/pos_embedding", "img/pos_embedding"),
    ]
    return found + _encoder("img", scanned) + _ends("img", names)


def table_of_text(names: Any, *, scanned: bool) -> list[Entry]:
    """The table of the text tower, whose positions may be the sum of two tables."""
    plus = _TWO_PARTS if _TWO_PARTS in names else None
    found = [
        Entry("txt/embedding", "txt/Embed_0/embedding"),
        Entry("txt/pos_embedding", "txt/pos_embedding", plus=plus),
    ]
    return found + _encoder("txt", scanned) + _ends("txt", names)


def table_of_scalars() -> list[Entry]:
    """The table of scale and bias."""
    return [Entry("log_scale", "t", ONE), Entry("bias", "b", ONE)]


def _encoder(tower: str, scanned: bool) -> list[Entry]:
    root = _ENCODERS[tower]
    block = f"{root}/encoderblock" + ("" if scanned else "_{i}")
    found = [Entry(f"{tower}/{BLOCKS}{a}", f"{block}/{b}") for a, b in _BLOCK.items()]
    leaves = ("scale", "bias")
    return found + [
        Entry(f"{tower}/encoder/norm/{leaf}", f"{root}/encoder_norm/{leaf}") for leaf in leaves
    ]


def _ends(tower: str, names: Any) -> list[Entry]:
    found = []
    if f"{tower}/MAPHead_0/probe" in names:
        found += [Entry(f"{tower}/map/{a}", f"{tower}/MAPHead_0/{b}") for a, b in _MAP.items()]
    if f"{tower}/head/kernel" in names:
        leaves = ("kernel", "bias")
        found += [Entry(f"{tower}/head/{leaf}", f"{tower}/head/{leaf}") for leaf in leaves]
    return found


def _scanned(tensors: dict[str, Tensor], tower: str) -> bool:
    return any(name.startswith(f"{_ENCODERS[tower]}/encoderblock/") for name in tensors)


def _sizes(tensors: dict[str, Tensor], tower: str) -> dict[str, Any]:
    root = _ENCODERS[tower]
    scanned = _scanned(tensors, tower)
    block = f"{root}/encoderblock" + ("" if scanned else "_0")
    query = f"{block}/MultiHeadDotProductAttention_0/query/kernel"
    # [(depth,) width, heads, size]: negative indices below fit both forms.
    shape = shape_of(tensors, query, 4 if scanned else 3)
    hidden = shape_of(tensors, f"{block}/MlpBlock_0/Dense_0/kernel", 3 if scanned else 2)[-1]
    # Scanned layers are one tensor whose first axis is the depth; listed ones are counted by name.
    listed = depth_of(tensors, rf"{root}/encoderblock_(\d+)/")
    sizes = {"width": shape[-3], "depth": shape[0] if scanned else listed}
    sizes |= {"mlp_dim": hidden, "num_heads": shape[-2]}
    if f"{tower}/head/kernel" in tensors:
        sizes["out_dim"] = shape_of(tensors, f"{tower}/head/kernel", 2)[1]
    return sizes | {"activation": "gelu_tanh"}


def _image(tensors: dict[str, Tensor]) -> dict[str, Any]:
    name, kernel = "img/pos_embedding", "img/embedding/kernel"
    flat = len(tensors[kernel].shape) == 2
    shape = shape_of(tensors, kernel, 2 if flat else 4)
    # A flat patch is [side * side * 3 channels, width].
    patch = square(shape[0] // 3, kernel, tensors[kernel].file) if flat else shape[0]
    positions = shape_of(tensors, name, 3)
    if flat and positions[0] != positions[1]:
        raise ValueError(
            f"{tensors[name].file}: tensor {name!r} of a NaFlex model has a grid of {positions[0]} x "
            f"{positions[1]}; expected a square one, because other grids are not supported."
        )
    side = positions[0] if flat else square(positions[1], name, tensors[name].file)
    pool = "map" if "img/MAPHead_0/probe" in tensors else "gap"
    return {**_sizes(tensors, "img"), "patch": patch, "size": side * patch, "pool": pool}


def _text(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {
        **_sizes(tensors, "txt"),
        "vocab_size": shape_of(tensors, "txt/Embed_0/embedding", 2)[0],
        "length": shape_of(tensors, "txt/pos_embedding", 3)[1],
        "pool": "map" if "txt/MAPHead_0/probe" in tensors else "last",
    }


def _flat_positions(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """NaFlex files hold positions as `[rows, columns, width]`."""
    held = tensors["img/pos_embedding"]
    shape = (1, held.shape[0] * held.shape[1], held.shape[2])
    flat = held._replace(shape=shape, array=lambda: held.array().reshape(shape))
    return {**tensors, "img/pos_embedding": flat}
