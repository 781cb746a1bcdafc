"""No halves: every tile is a kernel of its own, from the examples of both sides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import jax

from ..._engine.linearise import meta_of
from ..._methods.kernel_fns import KernelFn, NtkImplementation
from ..._shared.memory import nbytes
from ..._shared.trees import kernel_dtype, split_params
from .base import Call, Half, OneExample, Tile, shapes_of


@dataclass(frozen=True, eq=False)
class InExamples:
    """The examples, and their kernel within `memory`. `f` is checked once for all, not here."""

    call: Call
    fn: KernelFn
    examples: tuple[OneExample, OneExample]
    kind: str = "examples"
    forms: tuple[str, ...] = ()

    @staticmethod
    def of(call: Call, memory: int) -> InExamples:
        """From the shapes of one example."""
        ntk_fn = call.fn.ntk_fn.varied(check_vmap=False)
        if ntk_fn.has_plan:
            ntk_fn = ntk_fn.varied(memory=memory)
        first = one_example(call, 0)
        examples = (first, first if call.same else one_example(call, 1))
        return InExamples(call, replace(call.fn, ntk_fn=ntk_fn), examples)

    def of_call(self, call: Call) -> Self:
        """Those of another call of the same shapes."""
        return replace(self, call=call)

    def half(self, x: Any, params: Any, kwargs: dict[str, Any]) -> Half:
        """The examples."""
        return x, kwargs

    def tile(self, first: Half, second: Half | None, params: Any) -> list[jax.Array]:
        """A kernel call."""
        args = together(first, second)
        return jax.tree.leaves(self.fn._kernels(self.call.names, *args[:2], params, args[2]))

    def price(self, sizes: tuple[int, int]) -> Tile:
        """From the plan of a call; of the plain methods what their docstring says they hold."""
        fn, n, m = self.fn.ntk_fn, *sizes
        if fn.has_plan:
            blocks = [side.shapes(size) for side, size in zip(self.call.sides, sizes, strict=True)]
            x1, x2, kwargs = together(blocks[0], blocks[1])
            plans: list[Any] = []
            shapes_of(
                lambda *args: plans.append(fn._plan(0, *args)), x1, x2, self.call.params, kwargs
            )
            return Tile(plans[0].held, plans[0].multiply_adds)
        leaves = split_params(self.call.params).leaves
        p, size = sum(w.size for w in leaves), max(w.dtype.itemsize for w in leaves)
        o, q = (sum(e.meta.sizes()) for e in self.examples)
        contraction = fn.implementation == NtkImplementation.JACOBIAN_CONTRACTION
        held = (n * o + m * q if contraction else m * q) * p * size
        return Tile(2 * held, n * m * o * q * p if contraction else 2 * n * m * q * p)


def together(first: Half, second: Half | None) -> tuple[Any, Any, dict[str, Any]]:
    """Two blocks as the arguments of one call: inputs, and pairs of keyword arguments."""
    (x1, kwargs), x2 = first, None
    if second is not None:
        x2, kwargs2 = second
        kwargs = {k: (kwargs[k], kwargs2[k]) for k in kwargs}
    return x1, x2, kwargs


def one_example(call: Call, side: int) -> OneExample:
    """One example of a side."""
    found: list[Any] = []

    def trace(x: Any, params: Any, kwargs: dict[str, Any]) -> None:
        pair = call.fn.ntk_fn._pair("factors", x, None, params, kwargs)
        outputs = [kernel_dtype(y) for y in pair.first.outputs]
        found.append((meta_of(pair, pair.first), outputs))

    x, kwargs = call.sides[side].shapes(1)
    shapes_of(trace, x, call.params, kwargs)
    meta, dtypes = found[0]
    arrays = [a for a in jax.tree.leaves((x, kwargs)) if isinstance(a, jax.ShapeDtypeStruct)]
    return OneExample(meta, arrays, nbytes(arrays), 0, {"ntk": list(meta.dtypes), "nngp": dtypes})
