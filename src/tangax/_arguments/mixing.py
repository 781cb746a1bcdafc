"""Whether `f` treats examples independently: two that differ, together and each apart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _jaxpr
from .._shared.precision import full_precision
from .._shared.trees import is_concrete
from .reading import split_kwargs
from .sides import Side, read_one_side

# What is equal but for rounding differs by no more than so many times what rounding parameters
# otherwise changes.
NOISE = 32

MIXED = (
    "f mixes examples: {} for two examples together differs from each computed apart, so vmap_axes "
    "would give the kernel of another function. Batch statistics or one random key for a whole "
    "batch do this: fix the statistics, give each example its own key, or pass vmap_axes=None. "
    "check_vmap=False skips this check."
)


def check_examples_are_independent(
    side: Side, leaves: list[jax.Array], names: list[str], message: str = MIXED
) -> None:
    """`ValueError` if `f` on two examples together differs from `f` on each apart.

    Then `vmap_axes` computes the kernel of another function than the one given: batch statistics
    or random masks would be those of a single example. Arrays are on no mesh of Explicit axes.
    """
    if side.n is None or side.n < 2 or not is_concrete((leaves, side.data)):
        return
    eps = _jaxpr.epsilon(_jaxpr.trace(side.batch, leaves, side.data))
    side = few(side)

    def evaluated(leaves: list[jax.Array]) -> tuple[list[jax.Array], ...]:
        return tuple(side.batch(leaves, rows) for rows in (side.data, row(side, 0), row(side, 1)))

    def differs(k: int, whole: jax.Array, ones: list[jax.Array], here: list[jax.Array]) -> bool:
        axis = side.out_axes[k]
        assert axis is not None  # _check_batched_outputs of sides.py
        separate = jnp.concatenate(ones, axis)
        if whole.shape != separate.shape:
            return True
        if is_close(whole, separate, eps):
            return False
        noise = [together[k] for together, *_ in rounded(here, evaluated, eps)]
        return not is_close(whole, separate, eps, noise)

    with checking():
        for here, (together, *apart) in nearby(leaves, evaluated):
            for k, (name, whole, *ones) in enumerate(zip(names, together, *apart, strict=True)):
                if differs(k, whole, ones, here):
                    raise ValueError(message.format(name))


@contextlib.contextmanager
def checking() -> Iterator[None]:
    """Within, what is not finite and a key that is used again are no mistakes of the user's."""
    with (
        full_precision(None),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.debug_key_reuse(False),
    ):
        yield


def nearby(
    leaves: list[jax.Array], function: Callable[[list[jax.Array]], Any]
) -> Iterator[tuple[list[jax.Array], Any]]:
    """Parameters and the function of them: those given, and others a tenth away.

    At the given ones a head of zeros may hide what happens below.
    """
    yield leaves, function(leaves)
    yield from elsewhere(leaves, function, 0.1)


def elsewhere(
    leaves: list[jax.Array], function: Callable[[list[jax.Array]], Any], share: float, seed: int = 0
) -> list[tuple[list[jax.Array], Any]]:
    """Moved parameters and the function of them; none if `f` refuses them.

    As a check of their domain does.
    """
    away = _moved(leaves, share, seed)
    try:
        return [(away, function(away))]
    except Exception:
        return []


def rounded(
    leaves: list[jax.Array], function: Callable[[list[jax.Array]], Any], eps: float
) -> list[Any]:
    """The function of parameters that are rounded otherwise."""
    return [y for seed in (2, 3, 4) for _, y in elsewhere(leaves, function, 4 * eps, seed)]


# With fewer examples `vmap_axes` saves little.
_FEW = 8


def many_examples(x: Any) -> bool:
    """Whether all inputs have a first axis in common, and a long one."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
    return bool(shapes) and all(s and s[0] == shapes[0][0] >= _FEW for s in shapes)


def rows_look_independent(
    f: Callable[..., Any], x: Any, params: Any, kwargs: dict[str, Any]
) -> bool:
    """Whether `vmap_axes=0` seems right: two examples that differ are alike together and apart.

    "No" where `f` refuses two examples, or outputs have them along another axis. It costs what the
    check of `vmap_axes` does: `f` on one or two examples, six times.
    """
    try:
        given = read_one_side(f, x, params, 0, split_kwargs(kwargs)[0], differentiate=True)
        side = given.sides.first
        other = _first_other(side)
        data = [np.moveaxis(np.asarray(d), a, 0) for d, a in zip(side.data, side.axes, strict=True)]
        if all(np.array_equal(d[0], d[other]) for d in data):
            return False
        check_examples_are_independent(side, given.params.leaves, given.names)
    except Exception:  # whatever f makes of two examples: it was not asked to take them
        return False
    return True


def _first_other(side: Side) -> int:
    """An example that differs from the first, or the last one."""
    assert side.n is not None
    differs = np.zeros(side.n, bool)
    for d, axis in zip(side.data, side.axes, strict=True):
        if not jnp.issubdtype(d.dtype, jax.dtypes.prng_key):
            rows = np.moveaxis(np.asarray(d), axis, 0).reshape(side.n, -1)
            differs |= (rows != rows[:1]).any(1)
    return int(differs.argmax()) or side.n - 1


def few(side: Side) -> Side:
    """The side with two examples that differ, or with what there is."""
    if side.n is None or side.n < 2:
        return side
    ends = np.array([0, _first_other(side)])
    outputs = [
        jax.ShapeDtypeStruct([2 if b == a else d for b, d in enumerate(y.shape)], y.dtype)
        for y, a in zip(side.outputs, side.out_axes, strict=True)
    ]
    data = [jnp.take(d, ends, a) for d, a in zip(side.data, side.axes, strict=True)]
    return replace(side, data=data, n=2, outputs=outputs)


def row(side: Side, i: int) -> list[jax.Array]:
    return [
        jax.lax.slice_in_dim(d, i, i + 1, axis=a) for d, a in zip(side.data, side.axes, strict=True)
    ]


def _moved(leaves: list[jax.Array], share: float, seed: int) -> list[jax.Array]:
    """Parameters a little away, by a share of the size of each leaf."""
    rng = np.random.default_rng(seed)

    def step(w: jax.Array) -> jax.Array:
        steps = share * size_of(w) * rng.standard_normal(w.shape, np.float32)
        if w.weak_type:  # a Python number, whose dtype is that of what it meets
            return w + (float(steps.flat[0]) if w.size else 0.0)
        # Cast and copied by NumPy: JAX would compile either for every shape.
        return jax.device_put((np.asarray(w, np.float64) + steps).astype(w.dtype))

    return list(map(step, leaves))


def size_of(a: jax.Array) -> float:
    """The root of the mean square of an array; one where that is zero or not finite."""
    with np.errstate(over="ignore"):
        size = float(np.sqrt(np.mean(np.square(np.asarray(a, np.float64))))) if a.size else 0.0
    return size if 0 < size < np.inf else 1.0


def is_close(a: jax.Array, b: jax.Array, eps: float, noise: Sequence[jax.Array] = ()) -> bool:
    """Equal up to rounding: to the root of the precision, relative to the largest entry.

    `eps`: of the shortest floating-point numbers on the way. `noise`: what `a` is where parameters
    are rounded otherwise; it may differ by as much, many times.
    """
    if not is_concrete((a, b)) or not a.size:
        return True
    a64, b64, *others = (np.asarray(y, np.float64) for y in (a, b, *noise))
    finite = np.isfinite(a64) & np.isfinite(b64)
    scale = np.max(np.abs(a64), where=finite, initial=0.0)
    floating = jnp.issubdtype(a.dtype, jnp.floating)
    tolerance = eps**0.5 * scale if floating else 0.0
    with np.errstate(invalid="ignore"):
        for other in others:
            tolerance += NOISE * np.max(np.abs(a64 - other), where=finite, initial=0.0)
        differs = ~(np.abs(a64 - b64) <= tolerance)
    return not np.any(differs & finite) and bool(np.all(np.isfinite(a64) == np.isfinite(b64)))
