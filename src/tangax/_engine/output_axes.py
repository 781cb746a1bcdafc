"""One output's kernel: its axes in the order the engine works in, and blocks of them.

The output axes of one example fall in three groups, each flattened: diagonal ones `d`, traced ones
`r`, and free ones, `o` of `x1` and `q` of `x2`. The engine computes `[n, m, d, o, q]`, in blocks
where memory asks for it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._shared.axes import KernelAxes

# Labels of axes in einsums.
N, M, D, R, O, Q, S, T, K, I, J, P = range(12)


@dataclass(frozen=True)
class Frame:
    """One output: its kernel axes, its batch axis, its shape on both sides."""

    ax: KernelAxes
    batch: int | None
    shape1: tuple[int, ...]
    shape2: tuple[int, ...]

    @property
    def joint(self) -> bool:
        """Whether only pairs `n = m` are wanted."""
        return self.batch is not None and self.batch in self.ax.trace + self.ax.diagonal

    @property
    def m(self) -> int:
        """The label of the examples of the second side."""
        return N if self.joint else M

    @property
    def labels(self) -> list[int]:
        """Labels of the kernel that the engine computes."""
        if not self.joint:
            return [N, M, D, O, Q]
        return [D, O, Q] if self.batch in self.ax.trace else [N, D, O, Q]

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        sizes = dict(zip(self.ax.second, self.shape2, strict=True))
        sizes |= dict(zip(self.ax.first, self.shape1, strict=True))
        return tuple(sizes[label] for label in self.ax.result)

    def examples(self, side: int) -> int:
        """The number of examples; one where the whole batch is one."""
        return 1 if self.batch is None else self.shape(side)[self.batch]

    def kernel_shape(self, d: int, o: int, q: int) -> list[int]:
        """The shape of a kernel of so many outputs, as `labels`."""
        sizes = {N: self.examples(0), M: self.examples(1), D: d, O: o, Q: q}
        return [sizes[label] for label in self.labels]

    def shape(self, side: int) -> tuple[int, ...]:
        """The output's shape for all examples."""
        return (self.shape1, self.shape2)[side]

    def size(self, side: int) -> int:
        """The number of outputs of one example."""
        return math.prod(self.counts(side))

    def counts(self, side: int) -> tuple[int, int, int]:
        """The number of diagonal, traced and free outputs of one example."""
        shape = self.shape(side)
        d, r, o = (math.prod(shape[a] for a in axes) for axes in self.groups)
        return d, r, o

    @property
    def groups(self) -> tuple[list[int], list[int], list[int]]:
        """The diagonal, traced and free axes of the output, without that of the batch."""
        axes = [a for a in range(self.ax.ndim) if a != self.batch]
        shared = self.ax.diagonal + self.ax.trace
        return (
            [a for a in axes if a in self.ax.diagonal],
            [a for a in axes if a in self.ax.trace],
            [a for a in axes if a not in shared],
        )

    def places(self, side: int) -> np.ndarray:
        """`[d, r, o]`: where each output of one example stands among its flattened outputs."""
        axes = [a for a in range(self.ax.ndim) if a != self.batch]
        flat = np.arange(self.size(side)).reshape([self.shape(side)[a] for a in axes])
        order = [axes.index(a) for a in itertools.chain(*self.groups)]
        return flat.transpose(order).reshape(self.counts(side))

    def restored(self, kernel: jax.Array) -> jax.Array:
        """The kernel in the axes of the result, given that of the engine."""
        first, second = self.ax.first, self.ax.second
        sizes = dict(zip(first, self.shape1, strict=True))
        sizes |= dict(zip(second, self.shape2, strict=True))
        diagonal, _, free = self.groups
        labels = [first[a] for a in (*diagonal, *free)] + [second[a] for a in free]
        if self.batch is not None and self.batch not in self.ax.trace:
            examples = [first[self.batch], second[self.batch]]
            labels = (examples[:1] if self.joint else examples) + labels
        kernel = kernel.reshape([sizes[label] for label in labels])
        return jnp.transpose(kernel, [labels.index(label) for label in self.ax.result])


@dataclass(frozen=True)
class Block:
    """One run of `size` indices after another along an axis of `count`.

    The last begins early where `size` does not divide `count`: its first indices, which the one
    before had already, are not `fresh`.
    """

    count: int
    size: int

    @property
    def starts(self) -> np.ndarray:
        """Where each begins."""
        if self.whole:
            return np.zeros(1, int)
        return np.minimum(np.arange(0, self.count, self.size), self.count - self.size)

    @property
    def whole(self) -> bool:
        """Whether there is one."""
        return self.size >= self.count

    @property
    def runs(self) -> int:
        """How many there are."""
        return 1 if self.whole else -(-self.count // self.size)

    def fresh(self, start: Any) -> jax.Array | None:
        """Which indices of a block no block before it has; nothing where all are."""
        if self.whole or self.count % self.size == 0:
            return None
        index = start + jnp.arange(self.size)
        return (start % self.size == 0) | (index >= self.count // self.size * self.size)


def even(count: int, most: int) -> Block:
    """As few blocks of at most `most` as there can be, of nearly equal size."""
    runs = -(-count // max(1, min(count, most))) if count else 1
    return Block(count, -(-count // runs))


def added(whole: jax.Array, part: jax.Array, starts: Sequence[Any]) -> jax.Array:
    """`whole` with `part` added to the entries that begin at `starts`."""
    before = jax.lax.dynamic_slice(whole, starts, part.shape)
    return jax.lax.dynamic_update_slice(whole, before + part, starts)


def loop(body: Callable[..., Any], carry: Any, *starts: np.ndarray) -> Any:
    """`body(carry, *start)` for one start after another."""
    if len(starts[0]) == 1:
        return body(carry, *(int(s[0]) for s in starts))

    def step(carry: Any, start: Any) -> tuple[Any, None]:
        return body(carry, *start), None

    return jax.lax.scan(step, carry, tuple(jnp.asarray(s) for s in starts))[0]


def combinations(*starts: np.ndarray) -> list[np.ndarray]:
    """Every combination."""
    return [a.ravel() for a in np.meshgrid(*starts, indexing="ij")]


def masked(array: jax.Array, kept: Sequence[jax.Array | None]) -> jax.Array:
    """Zeros where an index along one of the leading axes is not kept."""
    masks = [
        jnp.expand_dims(k, [b for b in range(array.ndim) if b != a])
        for a, k in enumerate(kept)
        if k is not None
    ]
    if not masks:
        return array
    return jnp.where(functools.reduce(jnp.logical_and, masks), array, 0)
