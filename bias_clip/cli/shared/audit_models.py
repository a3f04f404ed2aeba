"""A run or a published checkpoint as a model under audit."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bias_clip.cli.shared.export_sources import is_run
from bias_clip.data.image import make_image_fn
from bias_clip.data.text import make_text_fn
from bias_clip.evals.audit import AuditModel, stage_model
from bias_clip.evals.audit.model import Say
from bias_clip.evals.concat import Stage
from bias_clip.pretrained import load_pretrained
from bias_clip.train.workdir.load_run import as_stage, identity, load_run


def audit_model(
    name: str,
    path: str,
    *,
    cache: Path,
    batch_size: int,
    tokenizer: str | None = None,
    say: Say = lambda text: None,
) -> AuditModel:
    """Returns the model at a path: the workdir of a run, or what `load_pretrained` takes.

    Raises:
      ValueError: neither is there; or a checkpoint without one of its towers or its vocabulary.
    """
    if is_run(path):
        run = load_run(path)
        about = {"run": identity(run)}
        stage = as_stage(run, batch_size)
    else:
        stage, about = _published(path, tokenizer)
    return stage_model(name, stage, about, cache=cache, batch_size=batch_size, say=say)


def _published(path: str, tokenizer: str | None) -> tuple[Stage, dict[str, Any]]:
    loaded = load_pretrained(path, tokenizer=tokenizer)
    if loaded.preprocess is None or loaded.config["text"] is None:
        raise ValueError(f"{path} has one tower only; an audit needs images and texts.")
    if loaded.tokenizer is None:
        raise ValueError(f"{path} has no vocabulary beside its weights: give --tokenizer PATH.")
    model, params = loaded.model, loaded.params
    image = jax.jit(lambda p, x: model.features(p, image=x).image)
    text = jax.jit(lambda p, x: model.features(p, text=x).text)
    logit = model.apply(params)  # no tower: only scale and bias
    stage = Stage(
        image=lambda x: image(params, x),
        text=lambda x: text(params, x),
        image_fn=make_image_fn(loaded.preprocess.ops),
        text_fn=make_text_fn(**loaded.tokenizer.rules),
        scale=float(logit.scale),
        bias=float(logit.bias),
    )
    about = {
        "config": json.loads(json.dumps(loaded.config, default=str)),
        "params_sha256": _params_sha256(params),
        "image": loaded.preprocess.ops,
        "text": json.loads(json.dumps(loaded.tokenizer.rules, default=str)),
    }
    return stage, about


def _params_sha256(params: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}:{array.dtype}{array.shape},".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
