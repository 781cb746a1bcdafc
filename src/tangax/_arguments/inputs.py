"""The inputs of a call: `x2` where it stands for `x1`, and what was probably meant otherwise."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from .._shared.trees import Params, check_same_structure, describe, leaf_name, named_leaves
from .._shared.user_line import warn_first

ORDER = "The arguments are x1, x2, params, in this order; of a kernel_fn x1, x2, get, params."


def second_inputs(x1: Any, x2: Any) -> Any:
    """`x2`, or `None` where it has the containers of `x1` and `None` in place of every leaf.

    `ValueError` where some are `None` and others are not.
    """
    if x2 is None:
        return None
    flat1, tree1 = jax.tree.flatten(x1, is_leaf=lambda leaf: leaf is None)
    flat2, tree2 = jax.tree_util.tree_flatten_with_path(x2, is_leaf=lambda leaf: leaf is None)
    if tree1 != tree2:
        return x2
    # Where both are `None`, it says nothing.
    both = zip(flat1, flat2, strict=True)
    pairs = [(path, b) for a, (path, b) in both if not (a is None and b is None)]
    absent = [leaf_name("x2", path) for path, b in pairs if b is None]
    given = [leaf_name("x2", path) for path, b in pairs if b is not None]
    if absent and given:
        msg = (
            f"{absent[0]} is None and {given[0]} is not: pass x2=None, or a tree of None, for "
            "x2=x1, else every input of x2."
        )
        raise ValueError(msg)
    return None if absent else x2


def check_same_inputs(x1: Any, x2: Any) -> None:
    """`ValueError` where `x1` and `x2` differ in structure: one may be the parameters."""
    try:
        check_same_structure("x1", x1, "x2", x2)
    except ValueError as error:
        raise ValueError(f"{error} {ORDER}") from None


@contextlib.contextmanager
def told(note: Callable[[], str]) -> Iterator[None]:
    """Adds to an exception of `f` on what it was evaluated, if there is anything to say."""
    try:
        yield
    except Exception as error:
        text = note()
        if text and text not in getattr(error, "__notes__", ()):
            error.add_note(text)
        raise


def on_inputs(name: str, x: Any, params: Any) -> str:
    """That `f` was evaluated on these arguments."""
    return (
        f"f(params, x) was evaluated on x = {name}, of shapes {_shapes(x)}, with params of "
        f"shapes {_shapes(params)}. {ORDER}"
    )


def on_some(name: str, k: int | None, n: int | None, kwargs: dict[str, Any]) -> str:
    """That it was evaluated on `k` of the `n` examples; nothing of all of them."""
    if k == n:
        return ""
    return (
        f"f(params, x) was evaluated on {k} of the {n} examples of {name}, as vmap_axes allows."
        f"{_without_axis(n, kwargs)}"
    )


def _without_axis(n: int | None, kwargs: dict[str, Any]) -> str:
    """Of keyword arguments without a batch axis, the one that seems to have an entry for each."""
    for key, value in kwargs.items():
        for name, leaf in named_leaves(key, value):
            shape = tuple(getattr(leaf, "shape", ()))
            if n in shape:
                return (
                    f" {name}, {describe(leaf)}, has no axis there, so all of it goes with any of "
                    f"them. If it has an entry for each example, give its axis, as in "
                    f"vmap_axes=(0, 0, dict({key}={shape.index(n)}))."
                )
    return ""


def _shapes(tree: Any) -> str:
    text = str(jax.tree.map(describe, tree)).replace("'", "")
    return text if len(text) < 300 else text[:300] + "..."


def is_pair(value: Any) -> bool:
    """Whether a keyword argument is split; a namedtuple of two is one value."""
    return type(value) is tuple and len(value) == 2


def warn_of_pairs(warned: set[Any], x2: Any, kwargs: dict[str, Any]) -> None:
    """Warn, once, of a pair where there is no `x2` for its second entry: `carry=(h, c)`.

    Two keys for one set of inputs, so that masks differ, are two as everywhere.
    """
    pairs = [k for k, value in kwargs.items() if k != "rng" and is_pair(value)]
    if x2 is None and pairs:
        msg = (
            f"{pairs[0]} is a tuple of two: its first entry goes to x1 and its second to x2, "
            "though x2=None. If it is one value, like the carry (h, c) of an LSTM, pass a list or "
            "a namedtuple."
        )
        warn_first(warned, "pair", msg)


def warn_of_statistics(warned: set[Any], params: Params) -> None:
    """Warn, once, of batch statistics among the parameters: they are differentiated as well."""
    tree = params.merge(params.leaves)
    nodes, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_statistic)
    found = [leaf_name("params", path) for path, node in nodes if _is_statistic(node)]
    found += [path for path in params.paths if _STATISTICS.search(path)]
    if found:
        msg = (
            f"{found[0]} looks like a batch statistic, and counts as a parameter: every "
            "floating-point leaf of params does. Leave statistics out of params, e.g. "
            'f = lambda params, x: model.apply({**variables, "params": params}, x), or '
            "graphdef, params, rest = nnx.split(model, nnx.Param, ...)."
        )
        warn_first(warned, "statistics", msg)


def _is_statistic(node: Any) -> bool:
    """Whether a node of a tree is a variable that Flax NNX has statistics in."""
    return any(cls.__name__ == "BatchStat" for cls in type(node).__mro__)


_STATISTICS = re.compile(r"\b(batch_stats|running_mean|running_var)\b")
