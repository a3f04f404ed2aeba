"""A trained run, loaded to be used: for embeddings, and for the probabilities of captions."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from bias_clip.core.json_object import read_object
from bias_clip.core.storage import run_folder
from bias_clip.data.image import ImageFn, make_image_fn
from bias_clip.data.text import TextFn, make_text_fn
from bias_clip.evals.concat import Stage
from bias_clip.evals.encode import filled
from bias_clip.models.two_towers import Model
from bias_clip.train.config_io import from_plain, to_plain
from bias_clip.train.model import abstract_params, has_kernel, make_model_on
from bias_clip.train.sharding import (
    batch_sharding,
    check_batch_size,
    gather,
    make_mesh,
    path_name,
    replicated,
)
from bias_clip.train.workdir import checkpoint


class Trained(NamedTuple):
    """A checkpoint of a run, or a published one (`load_model`).

    Attributes:
      workdir: of the run; for a published checkpoint its path, where nothing may be written.
      step: of the checkpoint; 0 for a published one.
      config: of the run; of a published checkpoint, what its files state. `data.text` is None if it has
        no tokenizer.
      model: that the config describes.
      params: of the checkpoint, averaged ones where the run has them, on `mesh`.
      mesh: from the config.
      origin: where a published checkpoint comes from (path, files, layout, family); None for a run.
      notes: what the output must say, such as each override of the preprocessing.
      changed: whether preprocessing or tokenizer differ from the run's or checkpoint's own.
    """

    workdir: Path
    step: int
    config: Any
    model: Model
    params: Any
    mesh: Mesh
    origin: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    changed: bool = False


def load_run(workdir: str | Path, step: int | None = None) -> Trained:
    """Loads the model of a run: its parameters alone, without its data and its optimiser's state.

        from bias_clip import load_run, probabilities

        run = load_run("runs/emoji")
        probabilities(run, "cat.png", ["a cat", "a dog"])  # one number per sentence, the sum is 1

    A run whose attention was a kernel for other devices is loaded with "xla", the same function; one
    whose mesh does not fit the devices here, on a plain mesh.

    Args:
      workdir: of the run; a folder, or "gs://bucket/folder".
      step: of the checkpoint; None: the newest.

    Raises:
      ValueError: if there is no run, or no checkpoint of that step, or it is damaged.
    """
    workdir = run_folder(workdir)
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} holds no run: there is no {path}.")
    config = from_plain(read_object(path, advice="restore it from a copy"))
    mesh = _mesh_of(config)
    # How attention is computed is not part of the function: another device may use another kernel.
    arguments = config.model.to_dict()
    kernel = arguments.pop("attention", "xla")
    if has_kernel(kernel, mesh.devices.flat[0].platform):
        arguments["attention"] = kernel
    model = make_model_on(arguments, mesh)
    with checkpoint.open_checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as saved:
        steps = list(saved.all_steps())
        step = saved.latest_step() if step is None else step
        if step not in steps:
            raise ValueError(f"{workdir} has no checkpoint of step {step}; it has {steps}.")
        # The average where there is one, as in the evaluations of the run.
        part = "params" if config.ema_decay is None else "ema"
        abstract = {part: abstract_params(model, config.sharding, mesh)}
        params = checkpoint.restore_part(saved, step, abstract)[part]
    return Trained(workdir, step, config, model, params, mesh)


def probabilities(
    run: Trained, image: str | Path | bytes | np.ndarray, sentences: Sequence[str]
) -> Float[np.ndarray, " n"]:
    """Returns how probable each sentence is as the caption of the image, among these sentences.

    ::

        softmax over the sentences of  scale * <image, sentence>

    Args:
      run: from `load_run`.
      image: a file, its bytes, or uint8 [height, width, 3 or 4].
      sentences: at least one.

    Raises:
      ValueError: no sentence, or an image that cannot be read.
    """
    if isinstance(sentences, str) or not sentences:
        raise ValueError(f"got sentences={sentences!r}; expected a list of at least one text.")
    pixels = Path(image).read_bytes() if isinstance(image, str | Path) else image
    config = run.config
    # The operations of an evaluation draw nothing, so the generator does not matter.
    x = _image_fn(config.evaluation.image)(pixels, np.random.default_rng(0))
    text_fn = text_fn_for(run)
    text = np.stack([text_fn(sentence) for sentence in sentences])
    # Rows are spread over the devices: fill them up to a number that divides.
    parts = run.mesh.shape["data"] * run.mesh.shape["fsdp"]
    x, text = filled(x[None], parts), filled(text, -(-len(text) // parts) * parts)
    logits = _logits(gather(run.params), x, text, apply=run.model.apply)
    return np.asarray(jax.nn.softmax(logits[0, : len(sentences)]))


@functools.partial(jax.jit, static_argnames="apply")
def _logits(params: Any, image: Any, text: Any, *, apply: Any) -> Any:
    images, texts = apply(params, image=image), apply(params, text=text)
    return texts.scale * images.zimg @ texts.ztxt.T


def _mesh_of(config: Any) -> Mesh:
    try:
        return make_mesh(**config.mesh)
    except ValueError:  # trained on other devices than there are here
        return make_mesh()


def as_stage(trained: Trained, batch_size: int) -> Stage:
    """The model as a part of a concatenated one; batches have `batch_size` rows, over all devices.

    Raises:
      ValueError: if the batch does not divide over the devices.
    """
    model, mesh, config = trained.model, trained.mesh, trained.config
    check_batch_size(batch_size, mesh)
    params = gather(trained.params)
    rows, whole = batch_sharding(mesh), replicated(mesh)
    image = jax.jit(lambda p, x: model.features(p, image=x).image, out_shardings=whole)
    text = jax.jit(lambda p, x: model.features(p, text=x).text, out_shardings=whole)
    logit = model.apply(params)  # no tower: only what makes cosines logits
    return Stage(
        image=lambda x: image(params, jax.device_put(x, rows)),
        text=lambda x: text(params, jax.device_put(x, rows)),
        image_fn=_image_fn(config.evaluation.image),
        text_fn=text_fn_for(trained),
        scale=float(logit.scale),
        bias=float(logit.bias),
    )


def identity(trained: Trained) -> dict[str, Any]:
    """What tells a checkpoint from others, wherever it lies: step, hash of config, of parameters."""
    config = json.dumps(_stated(trained), sort_keys=True).encode()
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained.params):
        # With name, dtype and shape: equal bytes of another tree are another model.
        array = np.asarray(leaf)
        digest.update(f"{path_name(path)}:{array.dtype}{array.shape},".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    hashes = (hashlib.sha256(config).hexdigest(), digest.hexdigest())
    return {"step": trained.step, "config_sha256": hashes[0], "params_sha256": hashes[1]}


def text_fn_for(trained: Trained) -> TextFn:
    """The function from a caption to the model's input.

    Raises:
      ValueError: only when it is called, if the checkpoint has no tokenizer: images need none.
    """
    if trained.config.data.text is None:
        return functools.partial(_no_tokenizer, trained.workdir)
    return _text_fn(json.dumps(trained.config.data.text.to_dict(), sort_keys=True))


def _no_tokenizer(path: Path, text: str) -> np.ndarray:
    raise ValueError(
        f"{path} has no tokenizer for {text[:40]!r}; expected a vocabulary beside its weights: give one "
        "with --set tokenizer=FILE, or embed only images."
    )


def _stated(trained: Trained) -> dict[str, Any]:
    """What decides the features besides the parameters; the same on every machine."""
    if trained.origin is None and not trained.changed:
        return read_object(trained.workdir / "config.json", advice="restore it from a copy")
    config = to_plain(trained.config)
    if trained.origin is None:
        return config
    texts = {key: x for key, x in (config["data"]["text"] or {}).items() if key != "tokenizer"}
    return {"model": config["model"], "images": config["evaluation"]["image"], "texts": texts}


@functools.cache
def _image_fn(ops: str) -> ImageFn:
    """One object for equal operations, so that an image is prepared once for all stages."""
    return make_image_fn(ops)


@functools.cache
def _text_fn(arguments: str) -> TextFn:
    return make_text_fn(**json.loads(arguments))
