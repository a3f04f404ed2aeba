"""Zero-shot classification: is the prompt of an image's own class the nearest one?"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bias_clip.data.records import as_array, missing
from bias_clip.data.sources import Source, column
from bias_clip.data.text import canonicalize
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.ranking import best_ranks, row_blocks, similarity, top_columns, unit
from bias_clip.evals.results import EvalResult, spread, thumbnail

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "drawing": ("{}", "a drawing of {}", "a picture of {}", "an emoji of {}"),
    "photo": ("{}", "a photo of {}", "a photo of a {}", "a picture of the {}"),
}


DESCRIPTION = Description(
    "recognition",
    "Images called by their own name among {classes} names.",
    {
        "acc1": Metric(
            "top-1 accuracy", "share", "higher", True, "chance", chart="", short="top-1"
        ),
        "acc5": Metric(
            "top-5 accuracy", "share", "higher", True, "chance", tries=5, chart="", short="top-5"
        ),
        "map": Metric("mean average precision", "share", "higher", chart="", short="mAP"),
        "class_recall": Metric("recall, mean over classes", "share", "higher"),
        "chance": Metric("top-1 accuracy by chance", "share"),
        "classes": count("names to choose from"),
        "images": count("images"),
    },
)


class Accuracy(NamedTuple):
    """Shares of images; see `accuracy`."""

    acc1: float
    acc5: float
    class_recall: float


def class_embeddings(
    prompts: Float[np.ndarray, "c t d"], *, dtype: Any = np.float32
) -> Float[np.ndarray, "c d"]:
    """One unit vector per class, in `dtype`: unit(mean over templates of unit(prompt)).

    Reference: Radford et al.: Learning Transferable Visual Models From Natural Language
    Supervision, 2021, section 3.1.4.
    """
    return unit(unit(prompts, dtype=dtype).mean(axis=1), dtype=dtype)


def accuracy(
    zimg: Float[np.ndarray, "n d"],
    zcls: Float[np.ndarray, "c d"],
    labels: Int[np.ndarray, " n"],
    *,
    block_size: int | None = None,
) -> Accuracy:
    """Top-1 and top-5 accuracy, and recall averaged over the classes that occur in `labels`.

    Classes are sorted by decreasing cosine, ties by increasing index. acc5 is NaN with fewer than
    five classes.
    """
    ranks = best_ranks(zimg, zcls, np.arange(len(labels)), labels, block_size=block_size)
    return accuracy_of_ranks(ranks, labels, num_classes=len(zcls))


def accuracy_of_ranks(
    ranks: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], *, num_classes: int
) -> Accuracy:
    """`accuracy` from the rank of each image's class."""
    counts = np.bincount(labels)
    # Classes without an image have no recall; a 0 would count them as never found.
    recalls = np.bincount(labels, ranks == 0)[counts > 0] / counts[counts > 0]
    return Accuracy(*_top_shares(ranks, num_classes), float(recalls.mean()))


def average_precision(
    scores: Float[np.ndarray, "n c"], targets: Bool[np.ndarray, "n c"], *, empty: float = 0.0
) -> Float[np.ndarray, " c"]:
    """Average precision per class: the mean precision at its images, sorted by decreasing score.

    Ties are sorted by increasing index. A class without an image gets `empty`: 0 as in
    CLIP_benchmark, or NaN, which a mean can leave out.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(targets, order, axis=0)
    # [n, c]: the share of hits among the first i images of each class.
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(scores) + 1)[:, None]
    number = hits.sum(axis=0)
    return np.where(number > 0, (precision * hits).sum(axis=0) / np.maximum(number, 1), empty)


def make_zeroshot(
    source: Source,
    *,
    label: str,
    templates: str | Sequence[str] = "plain",
    classes: Sequence[str] | None = None,
    class_source: Source | None = None,
    canonical: bool = True,
    separator: str | None = None,
    block_size: int | None = None,
    num_examples: int = 48,
    seed: int = 0,
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: classification of the source's images by the column `label`.

    Metrics: acc1, acc5, class_recall, chance (of acc1; five times that for acc5), classes, images.
    With `separator`, acc1 and acc5 count an image as right if the class is any of its labels, images
    without a label are left out, and map replaces class_recall.

    Args:
      source: images with a column `label` of class names, or of integers into `classes`.
      label: name of the column; "name" of the emoji has about 3,900 classes.
      templates: a name in `TEMPLATES`, or strings with one "{}"; their prompts are averaged per class.
      classes: names to choose from; by default the distinct values of the column. Names with one
        prompt are one class, see `one_class_each`.
      class_source: source whose column gives the classes, so that a part of a data set is classified
        among the labels of the whole.
      canonical: prompts without punctuation, in lower case; names that become equal are one class.
        Leave it off if the training captions kept their punctuation.
      separator: splits the strings of the column into several labels.
      block_size: images scored at the same time; None for as many as fit in 32 MB of scores.
      num_examples: number of images in `details`.
      seed: chooses these images.

    Raises:
      ValueError: unknown templates or column, labels that are not among the classes.
    """
    formats = template_formats(templates)
    if classes is not None and class_source is not None:
        raise ValueError("got both classes and class_source; give one of them, or neither.")
    form = canonicalize if canonical else str
    values = column(source, label)
    if classes is None:
        among = values if class_source is None else column(class_source, label)
        classes = distinct_names(among, label, form, separator)
    rows, columns = label_pairs(values, classes, form, separator)
    classes, place = one_class_each(classes, form)
    rows, columns = np.unique(np.stack([rows, place[columns]]), axis=1)  # "dog|Dog" is one label
    prompts = [form(template.replace("{}", name)) for name in classes for template in formats]
    shown = spread(len(source), num_examples, seed=seed)
    images = [thumbnail(source[int(i)]) for i in shown]

    def evaluate(encode: Encode) -> EvalResult:
        zimg = encode.images(source)
        # Prompts are listed class by class, [c, t, d].
        ztxt = encode.texts(prompts).reshape(len(classes), len(formats), -1)
        zcls = class_embeddings(ztxt)
        if separator is None:
            metrics = accuracy(zimg[rows], zcls, columns, block_size=block_size)._asdict()
        else:
            metrics = _multilabel(zimg, zcls, rows, columns, block_size)
        # Labels per image: with two right classes, a guess is right twice as often.
        metrics["chance"] = len(rows) / len(np.unique(rows)) / len(classes)
        metrics |= {"classes": float(len(classes)), "images": float(len(np.unique(rows)))}
        top, scores = top_columns(zimg[shown], zcls, 5)
        truths = [columns[rows == i] for i in shown]
        examples = [
            _example(png, truth, classes, t, s)
            for png, truth, t, s in zip(images, truths, top, scores, strict=True)
        ]
        return EvalResult(metrics, {"kind": "zeroshot", "examples": examples})

    return evaluate


def template_formats(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The named or given templates, each with one "{}"; ValueError for others."""
    if isinstance(templates, str):
        if templates not in TEMPLATES:
            raise ValueError(f"templates={templates!r}; expected one of {sorted(TEMPLATES)}.")
        return TEMPLATES[templates]
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise ValueError(f"templates have {wrong}; expected at least one, each with one '{{}}'.")
    return tuple(templates)


def _split(value: Any, separator: str | None) -> list[str]:
    return [value] if separator is None else [part for part in value.split(separator) if part]


def distinct_names(
    values: np.ndarray, label: str, form: Callable, separator: str | None
) -> list[str]:
    """The class names in a column of strings, sorted; ValueError for a column of numbers."""
    values = values[~missing(values, codes=True)]
    if values.dtype.kind not in "UO":
        raise ValueError(
            f"column {label!r} holds {values.dtype} and no names; give classes, which it indexes."
        )
    return sorted({form(part) for value in values for part in _split(value, separator)})


def one_class_each(
    classes: Sequence[str], form: Callable[[str], str]
) -> tuple[list[str], Int[np.ndarray, " c"]]:
    """Classes whose names `form` makes equal have the same prompts: no model tells them apart.

    Without this, the first of them would take the images of all, and chance would be too low.

    Returns:
      the first name of each set of equal ones, in the given order, and the place of every given class
      among these.
    """
    places: dict[str, int] = {}
    firsts: list[str] = []
    place = np.zeros(len(classes), np.int64)
    for i, name in enumerate(classes):
        key = form(name)
        if key not in places:
            places[key] = len(firsts)
            firsts.append(name)
        place[i] = places[key]
    return firsts, place


def label_pairs(
    values: np.ndarray, classes: Sequence[str], form: Callable, separator: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """All true pairs (image, class); an image without a label is in none."""
    there = np.flatnonzero(~missing(values, codes=True))
    labels = values[there]
    if labels.dtype == object:  # integers or names with gaps
        labels = as_array(labels.tolist())
    if labels.dtype.kind in "iu":
        if labels.max(initial=-1) >= len(classes) or not len(labels):
            raise ValueError(
                f"{len(labels)} labels go up to {labels.max(initial=-1)}; expected 0 to "
                f"{len(classes) - 1}, one for each of the {len(classes)} classes, in some records."
            )
        return there, labels.astype(np.int64)
    # Reversed, so that of equal names the first one stays.
    index = {form(name): i for i, name in reversed(list(enumerate(classes)))}
    pairs_of = zip(there.tolist(), labels.tolist(), strict=True)
    names = [(i, form(part)) for i, value in pairs_of for part in _split(value, separator)]
    unknown = sorted({name for _, name in names if name not in index})
    if unknown:
        raise ValueError(
            f"{len(unknown)} labels are not among the {len(index)} classes, such as {unknown[:5]}; "
            "add them to classes, or take them out of the source."
        )
    pairs = np.array([(i, index[name]) for i, name in names], np.int64).reshape(-1, 2)
    if not len(pairs):
        raise ValueError("no image has a label; expected at least one that is not empty.")
    return pairs[:, 0], pairs[:, 1]


def _top_shares(ranks: Int[np.ndarray, " n"], num_classes: int) -> tuple[float, float]:
    top5 = float(np.mean(ranks < 5)) if num_classes >= 5 else float("nan")
    return float(np.mean(ranks < 1)), top5


def _multilabel(
    zimg: np.ndarray,
    zcls: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    block_size: int | None,
) -> dict[str, float]:
    ranks = best_ranks(zimg, zcls, rows, columns, block_size=block_size)[np.unique(rows)]
    precisions = []
    # By blocks of classes and not of images: average precision sorts all images of a class.
    for block in row_blocks(len(zcls), len(zimg), block_size):
        inside = (columns >= block.start) & (columns < block.stop)
        targets = np.zeros((len(zimg), block.stop - block.start), bool)
        targets[rows[inside], columns[inside] - block.start] = True
        precisions.append(average_precision(similarity(zimg, zcls[block]), targets))
    acc1, acc5 = _top_shares(ranks, len(zcls))
    return {"acc1": acc1, "acc5": acc5, "map": float(np.concatenate(precisions).mean())}


def _example(
    png: str, truth: np.ndarray, classes: Sequence[str], top: np.ndarray, scores: np.ndarray
) -> dict[str, Any]:
    found = [{"text": classes[i], "score": float(s)} for i, s in zip(top, scores, strict=True)]
    names = ", ".join(classes[i] for i in truth)
    return {"png": png, "truth": names, "correct": bool(top[0] in truth), "top": found}
