"""From a suite's name and a folder to its numbers of one encoder: read, embed, score."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.core.registry import look_up
from bias_clip.data.sources.folder import folder_source
from bias_clip.evals.bias.association import make_association, make_representation
from bias_clip.evals.encode import Encode
from bias_clip.evals.prompts import prompt_embeddings, word_prompts
from bias_clip.evals.ranking import similarity
from bias_clip.evals.results import EvalResult
from bias_clip.evals.suites.association_tests import association_test
from bias_clip.evals.suites.berg import berg
from bias_clip.evals.suites.clip_benchmark import classify, classify_multilabel, retrieve
from bias_clip.evals.suites.fairness import OBJECTIVES, fairness, objective_predictions
from bias_clip.evals.suites.layouts import SuiteData, read_layout
from bias_clip.evals.suites.layouts.data import need
from bias_clip.evals.suites.layouts.tables import group_product
from bias_clip.evals.suites.layouts.word_files import read_berg_prompts, read_sobit_words
from bias_clip.evals.suites.neutral import (
    GenderWords,
    caption_gender,
    neutral_caption,
    neutral_captions,
)
from bias_clip.evals.suites.sispi import People, sispi
from bias_clip.evals.suites.sobit import sobit
from bias_clip.evals.suites.spec import Suite, load_suite
from bias_clip.evals.suites.visogender_run import make_visogender
from bias_clip.evals.suites.worst_group import top_hits, worst_group

Evaluate = Callable[[Encode], dict[str, EvalResult]]


def make_suite(
    name: str,
    path: str | Path,
    *,
    files: Mapping[str, str] | None = None,
    official: bool = False,
    **layout: Any,
) -> Evaluate:
    """Returns `evaluate(encode)`: the suite's results by part, such as "race" and "gender".

    A suite of one part calls it "all". Everything is read and checked here, before a model runs.

    Args:
      name: in `SUITES`.
      path: the data set, in the layout that the suite names.
      files: role to the user's copy of a file that may not be shipped, see `Suite.needs`.
      official: the official code's value wherever it differs from the sensible one.
      **layout: arguments of the layout's reader, such as `split`.

    Raises:
      ValueError: an unknown suite, a file of `needs` that is not given, or what the reader raises.
    """
    suite = load_suite(name)
    given = dict(files or {})
    missing = [role for role in suite.needs if role not in given]
    if missing:
        raise ValueError(
            f"the suite {name!r} needs files[{missing[0]!r}]: {suite.needs[missing[0]]}; give the "
            "path of your copy."
        )
    if suite.family == "visogender":
        return make_visogender(suite, Path(path), official=official)
    make = look_up("family", suite.family, _MAKERS)
    if suite.family == "association_test":
        return make(suite, None, given, official)
    if not suite.layout:
        need(Path(path), "a folder of images")
        return make(suite, SuiteData(folder_source(path=str(path))), given, official)
    return make(suite, read_layout(suite.layout, path, **layout), given, official)


def _fairness(suite: Suite, data: SuiteData, files: Mapping[str, str], official: bool) -> Evaluate:
    classes = data.classes or suite.classes
    metadata = np.stack([data.codes[c] for c in ("age", "gender", "race", "race_binary")], axis=1)

    def evaluate(encode: Encode) -> dict[str, EvalResult]:
        texts = {
            name: prompt_embeddings(encode, word_prompts(classes[name], [suite.prompts[name]]))
            for name in OBJECTIVES
        }
        found = objective_predictions(encode.images(data.source), texts)
        return {"all": fairness(found, metadata, races=suite.groups["race"], official=official)}

    return evaluate


def _worst_group(
    suite: Suite, data: SuiteData, files: Mapping[str, str], official: bool
) -> Evaluate:
    options = suite.options
    if "by" in options:
        groups = data.codes[options["by"]]
        names = tuple(f"{options['by']} {i}" for i in range(int(groups.max()) + 1))
        classes, templates, labels = data.classes[""], data.templates[""], data.codes["label"]
    else:
        first, second = suite.groups
        groups, names = group_product(data, first, second)
        classes, templates, labels = suite.classes[first], suite.templates, data.codes[first]
    prompts, top = word_prompts(classes, templates), options.get("top", 1)

    def evaluate(encode: Encode) -> dict[str, EvalResult]:
        scores = similarity(encode.images(data.source), prompt_embeddings(encode, prompts))
        found = worst_group(
            top_hits(scores, labels, top=top),
            groups,
            names=names,
            chance=min(1.0, top / len(classes)),
            train_counts=options.get("train_counts"),
            official=official,
        )
        return {"all": found}

    return evaluate


def _sobit(suite: Suite, data: SuiteData, files: Mapping[str, str], official: bool) -> Evaluate:
    words = read_sobit_words(Path(files["words"]))

    def evaluate(encode: Encode) -> dict[str, EvalResult]:
        images, texts = encode.images(data.source), encode.texts(words.prompts)
        return {
            field: sobit(
                images,
                texts,
                data.codes[field],
                names=names,
                categories=words.categories,
                k=suite.options["k"],
            )
            for field, names in suite.groups.items()
        }

    return evaluate


def _berg(suite: Suite, data: SuiteData, files: Mapping[str, str], official: bool) -> Evaluate:
    prompts = read_berg_prompts(Path(files["prompts"])).prompts

    def evaluate(encode: Encode) -> dict[str, EvalResult]:
        scores = similarity(encode.texts(prompts), encode.images(data.source))
        return {
            field: berg(scores, data.codes[field], ks=suite.options["ks"], official=official)
            for field in suite.groups
        }

    return evaluate


def _neutral(suite: Suite, data: SuiteData, files: Mapping[str, str], official: bool) -> Evaluate:
    words = GenderWords(**{key: tuple(values) for key, values in suite.words.items()})
    captions = [data.source[i]["captions"][0] for i in range(len(data.source))]
    genders = np.array([caption_gender(caption, words) for caption in captions])
    neutral = [neutral_caption(caption, words) for caption in captions]

    def evaluate(encode: Encode) -> dict[str, EvalResult]:
        found = neutral_captions(
            encode.images(data.source),
            encode.texts(captions),
            encode.texts(neutral),
            genders,
            ks=suite.options["ks"],
            official=official,
        )
        return {"all": found}

    return evaluate


def _sispi(suite: Suite, data: SuiteData, files: Mapping[str, str], official: bool) -> Evaluate:
    names = data.names["profession"]
    own = tuple(names[i] for i in data.codes["profession"])
    people = People(own, data.codes["gender"], data.codes["ethnicity"])
    prompts = [suite.templates[0].replace("{}", name) for name in names]

    def evaluate(encode: Encode) -> dict[str, EvalResult]:
        images, texts = encode.images(data.source), encode.texts(prompts)
        return {"all": sispi(images, texts, people, professions=names, official=official)}

    return evaluate


def _retrieval(suite: Suite, data: SuiteData, files: Mapping[str, str], official: bool) -> Evaluate:
    captions = [data.source[i]["captions"] for i in range(len(data.source))]
    texts = [text for own in captions for text in own]
    index = np.repeat(np.arange(len(captions)), [len(own) for own in captions])

    def evaluate(encode: Encode) -> dict[str, EvalResult]:
        images, found = encode.images(data.source), encode.texts(texts)
        return {"all": retrieve(images, found, index, ks=suite.options["ks"], official=official)}

    return evaluate


def _zeroshot(suite: Suite, data: SuiteData, files: Mapping[str, str], official: bool) -> Evaluate:
    if "" not in data.classes:
        raise ValueError(
            f"the suite {suite.name!r} needs a data set of classes; this one has the objectives "
            f"{list(data.classes)}: see the suites fairface_datacomp and retrieval_coco."
        )
    texts = word_prompts(data.classes[""], data.templates[""])

    def evaluate(encode: Encode) -> dict[str, EvalResult]:
        images = encode.images(data.source)
        prompts = np.stack([encode.texts(prompts) for prompts in texts])
        if data.labels is not None:
            return {"all": classify_multilabel(images, prompts, data.labels, official=official)}
        return {"all": classify(images, prompts, data.codes["label"])}

    return evaluate


def _association_test(
    suite: Suite, data: None, files: Mapping[str, str], official: bool
) -> Evaluate:
    words = {role: _lines(Path(files[role])) for role in suite.needs}

    def evaluate(encode: Encode) -> dict[str, EvalResult]:
        x, y, a, b = (encode.texts(words[role]) for role in "xyab")
        return {"all": association_test(x, y, a, b, max_splits=suite.options["max_splits"])}

    return evaluate


def _representation(
    suite: Suite, data: SuiteData, files: Mapping[str, str], official: bool
) -> Evaluate:
    one = make_representation(data.source, words=suite.words["pair"], templates=suite.templates)
    return lambda encode: {"all": one(encode)}


def _association(
    suite: Suite, data: SuiteData, files: Mapping[str, str], official: bool
) -> Evaluate:
    by = suite.options["by"]
    one = make_association(
        data.source,
        by=by,
        groups=suite.groups[by],
        pairs=list(zip(suite.words["first"], suite.words["second"], strict=True)),
        templates=suite.templates,
    )
    return lambda encode: {"all": one(encode)}


def _lines(path: Path) -> list[str]:
    found = [line.strip() for line in need(path, "a word per line").read_text("utf-8").splitlines()]
    words = [line for line in found if line]
    if not words:
        raise ValueError(f"{path} is empty; expected a word per line.")
    return words


_MAKERS: dict[str, Callable[..., Evaluate]] = {
    "association": _association,
    "association_test": _association_test,
    "berg": _berg,
    "fairness": _fairness,
    "neutral": _neutral,
    "representation": _representation,
    "retrieval": _retrieval,
    "sispi": _sispi,
    "sobit": _sobit,
    "worst_group": _worst_group,
    "zeroshot": _zeroshot,
}
