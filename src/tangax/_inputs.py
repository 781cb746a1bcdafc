"""The inputs of a call: `x2` where it stands for `x1`, and what was probably meant otherwise."""

from __future__ import annotations

from typing import Any

import jax

from ._trees import leaf_name


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
    # Where x1 has `None` too, it says nothing.
    pairs = [(path, b) for a, (path, b) in zip(flat1, flat2, strict=True) if a is not None]
    absent = [leaf_name("x2", path) for path, b in pairs if b is None]
    given = [leaf_name("x2", path) for path, b in pairs if b is not None]
    if absent and given:
        msg = (
            f"{absent[0]} is None and {given[0]} is not: pass x2=None, or a tree of None, for "
            "x2=x1, else every input of x2."
        )
        raise ValueError(msg)
    return None if absent else x2
