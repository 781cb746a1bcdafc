"""One output's kernel: its axes in the order the engine works in, and the letters of all arrays.

The output axes of one example fall in three groups, each flattened: diagonal ones `d`, traced ones
`r`, and free ones, `o` of `x1` and `q` of `x2`. The engine computes `[n, m, d, o, q]`, in blocks
where memory asks for it.

    A: [n, s, k, i]   G: [n, d, r, o, s, k, j]   J: [n, d, r, o, p]     of x1
    A: [m, t, k, i]   G: [m, d, r, q, t, k, j]   J: [m, d, r, q, p]     of x2
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

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
        return self.batch is not None and self.batch in self.ax.trace + self.ax.diagonal

    @property
    def m(self) -> int:
        return N if self.joint else M

    def of_A(self, side: int) -> list[int]:
        return [(N, self.m)[side], (S, T)[side], K, I]

    def of_G(self, side: int) -> list[int]:
        """Labels of `G`, its outputs unfolded."""
        return [(N, self.m)[side], D, R, (O, Q)[side], (S, T)[side], K, J]

    def of_J(self, side: int) -> list[int]:
        """Labels of `J`, its outputs unfolded."""
        return [(N, self.m)[side], D, R, (O, Q)[side], P]

    @property
    def labels(self) -> list[int]:
        """Labels of the kernel that the engine computes."""
        if not self.joint:
            return [N, M, D, O, Q]
        return [D, O, Q] if self.batch in self.ax.trace else [N, D, O, Q]

    @property
    def result_shape(self) -> tuple[int, ...]:
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
        return (self.shape1, self.shape2)[side]

    def size(self, side: int) -> int:
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
