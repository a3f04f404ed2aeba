"""What the report calls a metric, and whether it is a share."""

import re

_SHARES = re.compile(
    r"acc|acc1|acc5|acc_img|acc_txt|acc_(worst|mean|range|adjusted)|acc_of_.*|"
    r"map|class_recall|unseen|recognition|.*chance|[it]2[it]_r\d+|"
    r"preference.*|representation.*|ties|ess|pairs_(mean|max|signed)|pairs_probability_(mean|max)|"
    r"association_(mean|max|signed|probability|recall)|parity_(mean|max)|parity_probability_(mean|max)"
)
_NAMES = {
    "acc1": "top-1 accuracy",
    "acc5": "top-5 accuracy",
    "acc_img": "picture finds text",
    "acc_txt": "text finds picture",
    "class_recall": "recall, mean over classes",
    "map": "mean average precision",
    "preference": "nearer to the second group, in a role",
    "preference_low": "the same, lower end of the 95 % interval",
    "preference_high": "the same, upper end of the 95 % interval",
    "preference_probability": "the same, mean probability",
    "preference_plain": "nearer to the second group, no role named",
    "preference_objects": "nearer to the second group, nobody shown",
    "representation": "representation bias, in a role",
    "representation_objects": "representation bias, nobody shown",
    "recognition": "group recognised",
    "association_mean": "gap between the groups, mean over roles",
    "association_max": "gap between the groups, largest",
    "association_chance": "gap between the groups, by chance",
    "association_signed": "gap between the groups, signed mean",
    "association_probability": "gap in probability, mean over roles",
    "association_recall": "role recognised",
    "association_roles": "roles counted",
    "association_excluded": "roles with too few pictures",
    "pairs_mean": "gap over pairs of roles, mean",
    "pairs_max": "gap over pairs of roles, largest",
    "pairs_images": "pictures of people outside any role",
    "acc": "accuracy, all pictures",
    "acc_worst": "accuracy, worst group",
    "acc_mean": "accuracy, mean over groups",
    "acc_range": "accuracy, best group less worst",
    "acc_adjusted": "accuracy, groups as frequent as in training",
    "parity_mean": "gap between the groups, mean over words",
    "parity_max": "gap between the groups, largest",
    "parity_probability_mean": "gap in probability, mean over words",
    "parity_probability_max": "gap in probability, largest",
    "absent": "groups without a picture",
    "masked": "pictures of no group",
}
_NAMES_OF: dict[str, dict[str, str]] = {  # where an evaluator means something else by a name
    "representation": {
        "preference": "nearer to the second group",
        "representation": "representation bias",
        "representation_probability": "representation bias, of mean probability",
        "ties": "equally near to both",
    },
    "association": {
        "pairs_mean": "gap between the groups, mean over pairs",
        "pairs_max": "gap between the groups, largest",
        "pairs_signed": "gap between the groups, signed mean",
        "pairs_probability_mean": "gap in probability, mean over pairs",
        "pairs_probability_max": "gap in probability, largest",
        "pairs": "pairs of words",
    },
    "data_bias": {
        "representation": "representation bias of the data",
        "association_mean": "gap between the groups, mean over labels",
        "ess": "effective share of the records",
        "images": "records",
        "absent": "groups without a record",
        "masked": "records of no group",
    },
}
_SKEWS = {
    "maxskew": "max skew",
    "minskew": "min skew",
    "ndkl": "NDKL",
    "uniform": "equal shares wanted",
    "share": "shares of all wanted",
}
_WAYS = {"i2t": "picture to text", "t2i": "text to picture"}


def is_share(metric: str) -> bool:
    """Whether a metric of an evaluator is by its name a share, to be read as a percentage."""
    return _SHARES.fullmatch(metric) is not None


def metric_name(metric: str, kind: str | None = None) -> str:
    """A metric's name in words: t2i_r5_chance is "text to picture R@5, chance".

    `kind` is the evaluator's, for names that several use.
    """
    recall = re.fullmatch(r"([it]2[it])_r(\d+)(_chance)?", metric)
    if recall:
        return f"{_WAYS[recall[1]]} R@{recall[2]}" + (", chance" if recall[3] else "")
    skew = re.fullmatch(r"(maxskew|minskew|ndkl)_(uniform|share)_(\d+)", metric)
    if skew:
        return f"{_SKEWS[skew[1]]}, first {skew[3]}, {_SKEWS[skew[2]]}"
    if metric.startswith("acc_of_"):
        return f"accuracy, {spaced(metric.removeprefix('acc_of_'))}"
    own = _NAMES_OF.get(kind or "", {})
    return own.get(metric) or _NAMES.get(metric) or spaced(metric)


def spaced(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ").replace("/", " / ")
