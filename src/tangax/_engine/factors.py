"""The factors of one side's Jacobian, as a user may keep them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._shared.memory import nbytes
from .kinds import Factor, cotangent, with_cotangent
from .program import Found

ByLeaf = list[list[Factor]]


@dataclass(frozen=True)
class Load:
    """What one side holds, in bytes: whatever is asked of it, and for every output at a time.

    `chunk`: how many outputs are pulled back at once; of those before and after, only `stays` does.
    `steps`: equations of a pass.
    """

    fixed: int
    output: int
    stays: int
    chunk: int
    steps: int

    def of(self, outputs: int) -> int:
        if outputs <= self.chunk:
            return outputs * self.output
        return outputs * self.stays + self.chunk * self.output


@dataclass(frozen=True)
class Meta:
    """What is static of one side's factors: outputs by name, shape, batch axis; the tree.

    `leaves`: path and shape of every parameter.
    """

    leaves: tuple[tuple[str, tuple[int, ...]], ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    out_axes: tuple[int | None, ...]
    dtypes: tuple[Any, ...]
    treedef: Any

    def sizes(self) -> list[int]:
        """The number of outputs of one example, for each output of `f`."""
        return [
            math.prod(d for a, d in enumerate(shape) if a != axis)
            for shape, axis in zip(self.shapes, self.out_axes, strict=True)
        ]


@partial(jax.tree_util.register_dataclass, data_fields=["outputs", "by_leaf"], meta_fields=["meta"])
@dataclass(frozen=True)
class Factors:
    """The Jacobian of `f` over the examples of one input, factored leaf by leaf.

    `outputs` are `f(params, x)`, leaf by leaf; `by_leaf` holds, for every floating-point leaf of
    the parameters, its factors with a leading axis of examples.
    """

    outputs: list[jax.Array]
    by_leaf: ByLeaf
    meta: Meta

    def whole(self) -> Factors:
        return self

    def block(self, output: int, index: Any) -> ByLeaf:
        sizes = self.meta.sizes()
        start, count = sum(sizes[:output]), sizes[output]
        if isinstance(index, np.ndarray) and np.array_equal(index, np.arange(count)):
            return on_cotangents(lambda G: G[:, start : start + count], self.by_leaf)
        return on_cotangents(lambda G: jnp.take(G, start + index, axis=1), self.by_leaf)

    def prepared(self) -> Factors:
        return self

    @property
    def unit(self) -> ByLeaf:
        """The shapes of the factors of a single entry of any output."""
        one = self.by_leaf if self.meta.shapes else []
        return jax.eval_shape(lambda: on_cotangents(lambda G: G[:, :1], one))

    def load(self) -> Load:
        """Blocks of them are copies; they themselves are the caller's."""
        output = nbytes([cotangent(f) for leaf in self.unit for f in leaf])
        return Load(0, output, output, sys.maxsize, 0)

    def uses(self) -> list[Found]:
        return []

    def flops(self) -> tuple[int, int]:
        return 0, 0

    def pulled(self, cotangents: list[jax.Array]) -> None:
        """There is no pull-back."""


def on_cotangents(function: Callable[..., jax.Array], by_leaf: ByLeaf, *others: ByLeaf) -> ByLeaf:
    """`function` of every `G` or `J`, and of those of others, in place of it."""
    return [
        [
            with_cotangent(f, function(*map(cotangent, (f, *rest))))
            for f, *rest in zip(*leaf, strict=True)
        ]
        for leaf in zip(by_leaf, *others, strict=True)
    ]


def check_factors(first: Any, second: Any) -> None:
    """Refuse what are not the factors of one function at two inputs."""
    for name, factors in (("factors1", first), ("factors2", second)):
        if not isinstance(factors, Factors):
            msg = f"{name} must come from ntk_fn.factors(x, params), got {type(factors).__name__}."
            raise TypeError(msg)
        for output, y, shape in zip(
            factors.meta.names, factors.outputs, factors.meta.shapes, strict=True
        ):
            if y.shape != shape:
                raise ValueError(
                    f"{name} were cut or joined: {output} had shape {shape}, now {y.shape}. "
                    "Take factors of each block of examples."
                )
    of_one, of_two = first.meta, second.meta
    if of_one.leaves != of_two.leaves:
        odd = min(set(of_one.leaves) ^ set(of_two.leaves))
        msg = f"factors1 and factors2 are of different parameters: {odd[0]} {odd[1]} is in one."
        raise ValueError(msg)
    if of_one.treedef != of_two.treedef:
        msg = f"factors1 and factors2 have outputs {of_one.treedef} and {of_two.treedef}."
        raise ValueError(msg)
