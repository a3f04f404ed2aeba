"""Rules over columns, such as "width >= 200 and language == 'en'", as functions of the columns."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

Columns = Mapping[str, np.ndarray]
_COMPARE: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda values, some: np.isin(values, some),
    ast.NotIn: lambda values, some: ~np.isin(values, some),
}
_EXAMPLE = "\"words >= 2 and language == 'en'\""


def rule_columns(rule: str) -> list[str]:
    """Returns the names of the columns that a rule reads.

    Raises: ValueError for a rule that cannot be read.
    """
    names = [node.id for node in ast.walk(_parse(rule)) if isinstance(node, ast.Name)]
    return list(dict.fromkeys(names))


def apply_rule(rule: str, columns: Columns) -> Bool[np.ndarray, " n"]:
    """Returns where the rule holds.

    A rule is made of column names, numbers, quoted text, comparisons (`<`, `<=`, `>`, `>=`, `==`, `!=`,
    `in (..)`, `not in (..)`, chains such as `0.2 <= aspect < 3`), `and`, `or`, `not` and brackets. Nothing
    else is evaluated. A comparison with a missing number (NaN) does not hold, except `!=`.

    Raises: ValueError for anything else, for an unknown column, and for comparing text with numbers.

        apply_rule("words >= 2 and near_first == 1", columns)
    """
    node = _parse(rule)
    missing = [name for name in rule_columns(rule) if name not in columns]
    if missing:
        raise ValueError(f"the rule {rule!r} names {missing}; there are {sorted(columns)}.")
    return _holds(node, columns, rule)


def _parse(rule: str) -> ast.expr:
    try:
        return ast.parse(rule.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(
            f"cannot read the rule {rule!r}: {error.msg} at character {error.offset}; expected a form "
            f"such as {_EXAMPLE}."
        ) from error


def _holds(node: ast.expr, columns: Columns, rule: str) -> Bool[np.ndarray, " n"]:
    if isinstance(node, ast.BoolOp):
        parts = [_holds(value, columns, rule) for value in node.values]
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return join.reduce(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_holds(node.operand, columns, rule)
    if isinstance(node, ast.Compare):
        # A chain a < b < c is (a < b) and (b < c).
        sides = [_value(side, columns, rule) for side in (node.left, *node.comparators)]
        pairs = zip(sides, node.ops, sides[1:], strict=False)
        return np.logical_and.reduce([_compare(a, op, b, rule) for a, op, b in pairs])
    raise ValueError(
        f"the rule {rule!r} has {ast.unparse(node)!r} where a comparison is expected, such as {_EXAMPLE}."
    )


def _compare(a: Any, op: ast.cmpop, b: Any, rule: str) -> Bool[np.ndarray, " n"]:
    if type(op) not in _COMPARE:
        raise ValueError(
            f"the rule {rule!r} has a comparison that is not known; use ==, !=, <, in."
        )
    # In NumPy, text == number is False everywhere, without an error.
    kinds = {_is_text(side) for side in (a, b) if not (isinstance(side, tuple) and not side)}
    if len(kinds) > 1:
        raise ValueError(f"the rule {rule!r} compares text with numbers; quote text, not numbers.")
    if isinstance(b, tuple) != isinstance(op, ast.In | ast.NotIn) or isinstance(a, tuple):
        raise ValueError(f"the rule {rule!r}: a list belongs after `in` or `not in`.")
    return np.asarray(_COMPARE[type(op)](a, b), bool)


def _is_text(side: Any) -> bool:
    return np.asarray(side).dtype.kind in "UTSO"


def _value(node: ast.expr, columns: Columns, rule: str) -> Any:
    if isinstance(node, ast.Name):
        return columns[node.id]
    try:
        value = ast.literal_eval(node)
    except ValueError:
        value = None
    # All three mean "one of these"; a tuple, because np.isin takes a set as one object.
    if isinstance(value, list | tuple | set):
        value = tuple(value)
        if all(isinstance(one, str | int | float) for one in value):
            return value
    if not isinstance(value, str | int | float):
        raise ValueError(
            f"the rule {rule!r} has {ast.unparse(node)!r}; expected a column, a number or quoted text."
        )
    return value
