"""What each golden file says and what our functions say of its inputs, side by side.

`checks(path)` yields rows (what, ours, official, tolerance); bounds are rows whose official value is a
pair. It is the one place that maps the names of the official outputs to ours.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.evals.quality.zeroshot import class_embeddings
from bias_clip.evals.ranking import unit
from bias_clip.evals.suites import load_suite
from bias_clip.evals.suites.association_tests import (
    association_test,
    differential_association,
    effect_size,
)
from bias_clip.evals.suites.berg import berg
from bias_clip.evals.suites.clip_benchmark import classify, classify_multilabel, retrieve
from bias_clip.evals.suites.fairness import OBJECTIVES, fairness, objective_predictions
from bias_clip.evals.suites.neutral import (
    GenderWords,
    caption_gender,
    neutral_caption,
    neutral_captions,
    query_bias,
)
from bias_clip.evals.suites.sispi import read_names, sispi
from bias_clip.evals.suites.sobit import sobit
from bias_clip.evals.suites.visogender import (
    occupation_skews,
    visogender_resolution,
    visogender_retrieval,
)
from bias_clip.evals.suites.worst_group import group_codes, top_hits, worst_group

Row = tuple[str, Any, Any, float]
GOLDEN = Path(__file__).parent / "golden"
RACES = tuple(f"race {i}" for i in range(7))


def golden_files() -> list[Path]:
    return sorted(GOLDEN.glob("*.npz"))


def checks(path: Path) -> Iterator[Row]:
    with np.load(path, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    family = next(name for name in FAMILIES if path.name.startswith(name))
    yield from FAMILIES[family](arrays, "ties" in path.name)


def _sobit(z: dict, ties: bool) -> Iterator[Row]:
    k, categories = int(z["k"]), [str(c) for c in z["categories"]]
    for field in ("race", "gender"):
        names = [str(n) for n in z[f"{field}_names"]]
        result = sobit(
            z["image_emb"], z["word_emb"], z[field], names=names, categories=categories, k=k
        )
        words = result.details["words"]
        entropy = np.array([w["entropy"] for w in words], float)
        casc = np.array([w["casc"] for w in words], float)
        yield f"casc {field}", casc, z[f"official_casc_{field}"], 1e-9
        if ties:
            yield f"entropy {field}", entropy, _bounds(z, f"entropy_{field}", 1e-6), 0
            continue
        yield f"entropy {field}", entropy, z[f"official_entropy_{field}"], 1e-6
        counts = np.array([w["shown"] for w in words])
        yield f"counts {field}", counts, z[f"official_topk_{field}_counts"], 0
        by = [result.metrics[f"entropy_of_{c}"] for c in z["category_names"]]
        yield f"categories {field}", by, z[f"official_entropy_{field}_by_category"], 1e-6


def _sispi(z: dict, ties: bool) -> Iterator[Row]:
    names = [str(p) for p in z["professions"]]
    people = read_names([str(f) for f in z["file_names"]])
    result = sispi(z["image_emb"], z["text_emb"], people, professions=names, official=True)
    rows = result.details["professions"]
    keys = ("ndcg", "ap", "ndkl_gender", "ndkl_ethnicity", "ndkl_both")
    for key in keys[: 2 if ties else 5]:
        ours = np.array([r[key] for r in rows], float)
        official = z[f"official_{key}"]
        if key in ("ndcg", "ap"):
            ours = np.nan_to_num(ours)
        yield key, ours, official, 1e-9
    if not ties:
        yield (
            "means",
            [result.metrics[key] for key in keys],
            z["official_mean_of_ndcg_ap_ndkl3"],
            1e-9,
        )


def _neutral(z: dict, ties: bool) -> Iterator[Row]:
    words = GenderWords(**load_suite("neutral").words)
    label = np.array([caption_gender(str(c), words) for c in z["captions"]])
    yield "gender", np.array([0, 1, 2])[label + 1], z["official_gender_label"], 0
    texts = [neutral_caption(str(c), words) for c in z["captions"]]
    yield "neutral captions", texts, z["official_neutral_caption"].tolist(), 0
    args = (z["image_emb"], z["text_emb"], z["neutral_text_emb"], label)
    got = neutral_captions(*args, ks=z["ks"].tolist(), official=True).metrics
    bias, recall = ([got[f"{key}{k}"] for k in z["ks"]] for key in ("bias_", "t2i_r"))
    if ties:
        yield "bias", bias, _bounds(z, "bias", 1e-9), 0
        yield "recall", 100 * np.array(recall), _bounds(z, "recall_percent", 1e-9), 0
        return
    yield "bias", bias, z["official_bias_at_1_5_10"], 1e-9
    yield "recall", 100 * np.array(recall), z["official_recall_percent_at_1_5_10"], 1e-9
    ten = neutral_captions(*args, ks=range(1, 11), official=True).metrics
    yield "authors", [ten[f"bias_{k}"] for k in range(1, 11)], z["authors_bias_at_1_to_10"], 1e-9
    yield (
        "authors recall",
        100 * np.array(recall),
        z["authors_recall_percent_original_at_1_5_10"],
        1e-9,
    )
    own = neutral_captions(args[0], args[2], args[2], label, ks=z["ks"].tolist()).metrics
    ours = 100 * np.array([own[f"t2i_r{k}"] for k in z["ks"]])
    yield "neutral recall", ours, z["authors_recall_percent_neutral_at_1_5_10"], 1e-9


def _occupation(z: dict, ties: bool) -> Iterator[Row]:
    groups = np.array([-1, 0, 1])[z["gender"]]
    ks = z["ks"].tolist()
    for form, name in (
        ("second", "official_mean_abs_bias_others_count_as_women"),
        ("discounted", "official_mean_abs_discounted_bias"),
        ("left_out", "notebook_mean_abs_bias_men_women_only"),
    ):
        got = query_bias(z["scores"], groups, ks=ks, form=form)
        official = z[name]
        ours = [got.metrics[f"bias_abs_{k}"] for k in ks]
        if form == "left_out":  # the notebook's plain mean is NaN if any query finds neither
            without = [got.metrics[f"without_{k}"] for k in ks]
            ours = [np.nan if n else value for n, value in zip(without, ours, strict=True)]
        yield form, ours, official, 1e-9


def _retrieval(z: dict, ties: bool) -> Iterator[Row]:
    numbers = z["n_images"].tolist()
    scores = [row[:n] for row, n in zip(z["logits"], numbers, strict=True)]
    genders = [row[:n] for row, n in zip(z["gender"], numbers, strict=True)]
    # The official switch goes by the published order of rows: MM, MF, FM, FF, five of each.
    groups = genders
    if z["diff_gender"]:
        groups = [np.repeat([0, 1, 1, 0], n // 4) for n in numbers]
    error = str(z["official_error"])
    result = visogender_retrieval(scores, groups, official=True)
    if error:  # the official code stops; ours has a number for each occupation
        yield "finite", bool(np.isfinite(list(result.metrics.values())).all()), True, 0
        return
    ks = range(1, max(numbers) + 1)
    rows = [
        occupation_skews(s, g, ks=ks, form="visogender")
        for s, g in zip(scores, groups, strict=True)
    ]
    yield "bias", [r.bias for r in rows], z["official_bias_all_k"], 1e-9
    yield "max skew", [r.max_skew for r in rows], z["official_maxskew_all_k"], 1e-9
    yield "min skew", [r.min_skew for r in rows], z["official_minskew_all_k"], 1e-9
    yield "ndkl", [r.ndkl for r in rows], z["official_ndkl"], 1e-9
    for name in ("maxskew_5", "maxskew_10", "minskew_5", "minskew_10", "ndkl"):
        mean, deviation = z[f"official_mean_sd_{name.replace('_', '_at_')}"]
        yield f"mean {name}", result.metrics[name], mean, 1e-9
        yield f"deviation {name}", result.metrics[f"{name}_deviation"], deviation, 1e-9
    for k in (5, 10):
        got = [result.metrics[f"bias_{k}"], result.metrics[f"bias_{k}_deviation"]]
        yield f"bias {k}", got, z[f"official_mean_sd_bias_at_{k}"], 1e-9


def _resolution(z: dict, ties: bool) -> Iterator[Row]:
    args = (
        z["one_person_scores"],
        z["one_person_occ_gender"],
        z["two_person_scores_occ_first"],
        z["two_person_occ_gender"],
        z["two_person_par_gender"],
    )
    parts = {
        "one_person": "single_person_images",
        "two_people": "two_person_images",
        "same_gender": "two_person_images_same_gender",
        "different_gender": "two_person_images_diff_gender",
    }
    official = visogender_resolution(*args, official=True).metrics
    exact = visogender_resolution(*args).metrics
    for part, name in parts.items():
        pair = [official[f"accuracy_of_{part}"], official[f"gap_of_{part}"]]
        if f"official_{name}_RA_gap" in z:
            yield f"official {part}", pair, z[f"official_{name}_RA_gap"], 1e-9
        ours = [exact[f"accuracy_of_{part}"], exact[f"gap_of_{part}"]]
        if ties:  # the exact values of that file give ties to the first pronoun
            continue
        yield f"exact {part}", ours, z[f"exact_{name}_RA_gap"], 1e-12
    if "official_overall_accuracy" in z:
        yield "overall", official["accuracy"], z["official_overall_accuracy"], 0.011


def _berg(z: dict, ties: bool) -> Iterator[Row]:
    ks = z["ks"].tolist()
    got = berg(z["scores"][None], z["labels"], ks=ks, official=True).metrics
    for target, name in (("even", "eq_opp"), ("share", "dem_par")):
        for metric in ("maxskew", "ndkl"):
            official = z[f"official_{metric}_{name}"]
            ours = np.array([got[f"{metric}_{target}_{k}"] for k in ks])
            if metric == "ndkl" and any(z["official_error_each"]):
                yield "ndkl is finite", bool(np.isfinite(ours).all()), True, 0
                continue
            yield f"{metric} {target}", ours, official, 1e-9


def _fairness(z: dict, ties: bool) -> Iterator[Row]:
    objectives = {name: z[f"text_emb_{name}"] for name in OBJECTIVES}
    predictions = objective_predictions(z["image_emb"], objectives)
    order = [OBJECTIVES.index(str(name)) for name in z["objectives"]]
    yield "predictions", predictions[:, order], z["official_predictions"], 0
    got = fairness(predictions, z["metadata"], races=RACES).metrics
    lowest = fairness(predictions, z["metadata"], races=RACES, official=True).metrics
    for key, value in zip(z["official_metric_names"], z["official_metric_values"], strict=True):
        yield str(key), _fairness_value(str(key), got, lowest), value, 1e-6


def _fairness_value(key: str, got: dict[str, float], lowest: dict[str, float]) -> float:
    kind, _, rest = key.partition("_")
    binary, genders = ("white", "other"), ("man", "woman")
    if kind == "count":
        race, _, gender = rest.partition("_gender:")
        code = int(race.split(":")[1])
        if race.startswith("race_binary"):
            return got[f"images_of_{binary[code]}"]
        suffix = f"_{genders[int(gender)]}" if gender else ""
        return got[f"images_of_{RACES[code]}{suffix}"]
    for official, ours in (  # noqa: B007 the loop ends at the pair that is used below
        ("gender_x", "gender_by_race"),
        ("race", "race"),
        ("gender", "gender"),
        ("age", "age"),
        ("crime", "crime"),
        ("nonhuman", "nonhuman"),
    ):
        if rest.startswith(official + "_"):
            part = rest.removeprefix(official + "_")
            break
    if part == "avg":
        return got[ours]
    if part == "wg":
        return lowest[f"{ours}_worst"]
    race, _, gender = part.partition("_gender:")
    code = int(race.split(":")[1])
    name = binary[code] if race.startswith("race_binary") else RACES[code]
    return got[f"{ours}_of_{name}" + (f"_{genders[int(gender)]}" if gender else "")]


def _income(z: dict, ties: bool) -> Iterator[Row]:
    top = 5 if "income_ds" in z["metadata_columns"] else 1
    hits = top_hits(z["logits"], z["labels"], top=top)
    column = z["metadata"][:, 0]
    if (column != np.floor(column)).any():  # the official code cuts fractions; ours refuses them
        column = np.floor(column)
    codes = group_codes(column)
    names = [str(i) for i in range(codes.max() + 1)]
    got = worst_group(hits, codes, names=names, chance=top / z["logits"].shape[1]).metrics
    yield "average", got["acc"], z["official_average"], 1e-6
    yield "worst", got["acc_worst"], z["official_worst"], 1e-6
    for key, value in zip(z["official_metric_names"], z["official_metric_values"], strict=True):
        code = str(key).rpartition(":")[2]
        if ":" in key:
            ours = got[("images_of_" if key.startswith("count") else "acc_of_") + code]
            yield str(key), ours, value, 1e-6


def _wilds(z: dict, names: list[str], groups: np.ndarray, counts: Any) -> Iterator[Row]:
    hits = z["labels"] == z["predictions"]
    got = worst_group(
        hits, groups, names=names, chance=0.5, train_counts=counts, official=True
    ).metrics
    if "official_metric_names" not in z:  # the official code stops where a label never occurs
        yield "finite worst", bool(np.isfinite(got["acc_worst"])), True, 0
        return
    yield "worst", got["acc_worst"], z["official_worst"], 1e-6
    for key, value in zip(z["official_metric_names"], z["official_metric_values"], strict=True):
        special = {"acc_avg": "acc", "acc_wg": "acc_worst", "adj_acc_avg": "acc_adjusted"}
        ours = special.get(str(key))
        if ours is None:
            kind = "images_of_" if key.startswith("count") else "acc_of_"
            ours = kind + str(key).split("_", 1)[1]
        yield str(key), got[ours], value, 1e-6


def _waterbirds(z: dict, ties: bool) -> Iterator[Row]:
    names = [
        f"y:{y}_background:{place}"
        for y in ("landbird", "waterbird")
        for place in ("land", "water")
    ]
    groups = 2 * z["labels"] + z["attribute"]
    yield from _wilds(z, names, groups, load_suite("waterbirds").options["train_counts"])


def _celeba(z: dict, ties: bool) -> Iterator[Row]:
    names = [f"y:{y}_male:{m}" for y in ("notblond", "blond") for m in (0, 1)]
    yield from _wilds(z, names, 2 * z["labels"] + z["attribute"], None)


def _zeroshot(z: dict, ties: bool) -> Iterator[Row]:
    zcls = class_embeddings(z["prompt_emb"], dtype=np.float64)
    yield "classifier", zcls.T, z["official_classifier"], 1e-9
    logits = 100 * unit(z["image_emb"], dtype=np.float64) @ zcls.T
    yield "logits", logits, z["official_logits"], 1e-5
    if "official_acc1" not in z:
        return
    got = classify(z["image_emb"], z["prompt_emb"], z["labels"]).metrics
    yield "recall", got["class_recall"], z["official_mean_per_class_recall"], 1e-9
    if ties:
        yield "accuracy", [got["acc1"], got["acc5"]], _bounds(z, "acc_1_5", 1e-9), 0
        return
    yield "acc1", got["acc1"], z["official_acc1"], 1e-9
    yield "acc5", got["acc5"], z["official_acc5"], 1e-9


def _multilabel(z: dict, ties: bool) -> Iterator[Row]:
    yield from _zeroshot(z, ties)
    got = classify_multilabel(z["image_emb"], z["prompt_emb"], z["labels"], official=True)
    if not ties:
        yield "map", got.metrics["map"], z["official_mean_average_precision"], 1e-6
        yield "ap", got.details["precisions"], z["official_ap_per_class"], 1e-6


def _clip_retrieval(z: dict, ties: bool) -> Iterator[Row]:
    args = (z["image_emb"], z["text_emb"], z["text_image_index"])
    got = retrieve(*args, ks=z["ks"].tolist(), official=True).metrics
    t2i, i2t = (np.array([got[f"{way}_r{k}"] for k in z["ks"]]) for way in ("t2i", "i2t"))
    if ties:
        yield "image retrieval", t2i, _bounds(z, "image_retrieval", 1e-6), 0
        return
    ran = z["official_error_each"] == ""
    yield "image retrieval", t2i[ran], z["official_image_retrieval_recall"][ran], 1e-6
    yield "text retrieval", i2t[ran], z["official_text_retrieval_recall"][ran], 1e-6
    yield "no number", np.isnan(t2i[~ran]).tolist(), [True] * int(np.sum(~ran)), 0


def _weat(z: dict, ties: bool) -> Iterator[Row]:
    x, y, a, b = (z[name] for name in "XYAB")
    s = differential_association(np.concatenate([x, y]), a, b)
    yield "s", s, z["official_association_s"], 1e-9
    got = association_test(x, y, a, b, max_splits=int(z["n_samples"])).metrics
    yield "effect", got["effect_size"], z["official_effect_size_sentbias"], 1e-9
    assert np.isnan(got["effect_size"]) == np.isnan(effect_size(s[: len(x)], s[len(x) :]))
    if len(x) != len(y):
        yield "no p", bool(np.isnan(got["p"])), True, 0
    elif np.array_equal(x, y) or np.ptp(s) < 1e-12:
        return  # all splits tie up to rounding: the two official codes differ from each other
    else:
        tolerance = 1e-9 if z["exact_p"] else 0.03
        yield "p", got["p"], z["official_p_sentbias"], tolerance


def _bounds(z: dict, name: str, slack: float) -> tuple[np.ndarray, np.ndarray]:
    return z[f"{name}_low"] - slack, z[f"{name}_high"] + slack


FAMILIES = {
    "sobit": _sobit,
    "sispi": _sispi,
    "neutral_occupation": _occupation,
    "neutral": _neutral,
    "visogender_retrieval": _retrieval,
    "visogender_resolution": _resolution,
    "berg": _berg,
    "datacomp_fairface": _fairness,
    "datacomp_utkface": _fairness,
    "datacomp": _income,
    "clipbench_zeroshot": _zeroshot,
    "clipbench_multilabel": _multilabel,
    "clipbench_retrieval": _clip_retrieval,
    "wilds_waterbirds": _waterbirds,
    "wilds_celeba": _celeba,
    "weat": _weat,
}


def agrees(ours: Any, official: Any, tolerance: float) -> bool:
    """Within the tolerance (NaN equal NaN), or between the bounds."""
    if isinstance(official, tuple):
        low, high = official
        return bool(np.all((np.asarray(ours) >= low) & (np.asarray(ours) <= high)))
    if isinstance(official, list):
        return list(ours) == official
    ours, official = np.asarray(ours, float), np.asarray(official, float)
    if ours.shape != official.shape:
        return False
    return bool(np.allclose(ours, official, rtol=0, atol=tolerance, equal_nan=True))
