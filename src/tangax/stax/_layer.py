"""A layer: a triple of functions, two of its finite network and one of the limit."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._arguments.inputs import is_pair, second_inputs
from .._arguments.reading import are_equal
from .._shared.compiled import Compiled
from .._shared.get import AnalyticKernel, canonical_get, is_get, kernel_tuple
from .._shared.precision import full_precision
from .._shared.trees import describe, is_concrete, named_leaves
from ._blocked import blocked
from ._covariance import Covariance, Need


class Layer(NamedTuple):
    """A layer, or a network made of layers.

    `init_fn(key, input_shape)` gives `(output_shape, params)`; `apply_fn(params, x, **kwargs)` the
    finite network's output; `kernel_fn(x1, x2, get)` the kernels of infinite width, see `KernelFn`.
    """

    init_fn: Callable[..., Any]
    apply_fn: Callable[..., Any]
    kernel_fn: Any


# The covariance after a layer from that before, with the keyword arguments of a call.
Rule = Callable[..., Any]
# What a layer needs of its input, and its rule, given what is needed of its output.
Plan = Callable[[Any], tuple[Any, Rule]]


@dataclass(frozen=True, eq=False)
class KernelFn:
    """The kernels of a network of infinite width, in closed form.

        NNGP   K = E[f(x1) f(x2)^T] of one output channel, over random parameters
        NTK    Theta = the limit of J(x1) J(x2)^T, of one output channel

    Shapes: `[n, m]` after `Flatten` or global pooling. Outputs that have positions give all pairs
    of them, `[n, m, h, h', w, w']`: examples first, wherever the network has them. The dtype is
    that of the inputs, float32 for integers and shorter floats.

    Derivatives: those of the formulas, of all orders, in `x1`, `x2` or both; an `x2` with the
    values of `x1` moves by itself. `docs/infinite-width.md` says what stands for missing ones.

    Raises: `NotImplementedError` naming a layer that has no closed form there; `ValueError` and
    `TypeError` for inputs that a layer cannot take.

    Cost: for each layer, its function of every entry of the covariances: `n*m` times the positions
    if only equal ones are needed, or their square if a layer pools; half of it for `x2=None`.
    Memory: two to three times the result, and blocks of examples small enough for caches.

    Source: Jacot et al., "Neural Tangent Kernel" (2018), theorem 1; Novak et al., "Neural Tangents"
    (2020), section 3; for convolutions Novak et al., "Bayesian Deep Convolutional Networks with
    Many Channels are Gaussian Processes" (2019), section 2.2; the NTK of pooling is in Arora et
    al., "On Exact Computation with an Infinitely Wide Neural Net" (2019), section 4.

    Example:
        >>> import jax
        >>> from tangax import stax
        >>> _, _, kernel_fn = stax.serial(stax.Dense(512), stax.Relu(), stax.Dense(1))
        >>> x = jax.random.normal(jax.random.key(0), (5, 8))
        >>> kernel_fn(x, None, "ntk").shape
        (5, 5)
    """

    name: str
    plan: Plan
    _compiled: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_compiled", Compiled(self._compute))

    def __call__(self, x1: Any, x2: Any = None, get: Any = None, **kwargs: Any) -> Any:
        """The kernels that `get` names, as for `empirical_kernel_fn`; both in a namedtuple.

        `x2=None` means `x2=x1`. `pattern` is for `Aggregate`: one for both sides, or a tuple of
        two. `rng` is taken as elsewhere and not used: kernels are means over `Dropout`'s masks,
        which equal inputs share. A network that begins with `parallel` takes a tuple or list of
        inputs. It can be wrapped in `jax.jit`.
        """
        names = _names_of(get)
        _check_keywords(kwargs)
        x2 = second_inputs(x1, x2)
        x2 = x1 if x2 is None else x2
        _check_arrays("x1", x1)
        _check_arrays("x2", x2)
        given = kwargs.get("pattern")
        pattern: Any = given if is_pair(given) else (given, given)
        same, one = _sameness((x1, pattern[0]), (x2, pattern[1]))
        kernels = self._compiled(names, same, x1, None if one else x2, pattern)
        return kernels[0] if isinstance(get, str) else kernel_tuple(names, AnalyticKernel)(*kernels)

    def _compute(self, names: Any, same: bool | None, x1: Any, x2: Any, pattern: Any) -> Any:
        # Where it is not known, under jit, the values tell.
        told = are_equal((x1, pattern[0]), (x2, pattern[1])) if same is None else same
        with full_precision(None):
            return blocked(self.plan, names, x1, x2, pattern, told)


def layer(
    name: str,
    init: Callable[..., Any],
    apply: Callable[..., Any],
    rule: Rule | None,
    *,
    pairs: bool | None = None,
    axes: tuple[int, int | None] | None = None,
) -> Layer:
    """A layer of one input and one output.

    `rule(c, **kwargs)`: the covariance after it; `None` if there is no closed form. `pairs`:
    whether it needs pairs of positions; `None` for the pairs that are needed of its output.
    `axes`: where its input has batch and channels, if it cares.
    """

    def plan(wanted: Need) -> tuple[Need, Rule]:
        if rule is None:
            raise no_closed_form(name, "its finite network works")
        transform = rule

        needed = Need(wanted.pairs if pairs is None else pairs, wanted.axes, wanted.layer)
        if axes is not None:
            needed = replace(needed, axes=axes, layer=name)

        def forward(c: Any, **kwargs: Any) -> Any:
            check_one(name, c)
            _check_axes(name, axes, c)
            return transform(seen(needed, c), **kwargs)

        return needed, forward

    return Layer(init, apply, KernelFn(name, plan))


def seen(need: Need, c: Covariance) -> Covariance:
    return c if need.pairs else c.without_pairs()


def check_one(name: str, c: Any) -> None:
    if not isinstance(c, Covariance):
        raise ValueError(f"{name} takes one input, got {len(c)}: a fan-in joins branches.")


def _check_axes(name: str, axes: tuple[int, int | None] | None, c: Covariance) -> None:
    """A layer finds batch and channels where it looks for them."""
    if axes is None:
        return
    count = len(c.positions) + 2
    for what, asked, actual in zip(("batch", "channels"), axes, c.axes, strict=True):
        if asked is not None and asked % count != actual:
            raise ValueError(
                f"{name} takes the {what} at axis {asked}, but its input has them at axis {actual} "
                f"of {count}."
            )


def _sameness(first: Any, second: Any) -> tuple[bool | None, bool]:
    """Whether inputs have the same values; and whether they are one, whatever is differentiated.

    The first is `None` if it cannot be told yet, under `jit`. Of equal values a derivative may move
    one side only; of one array it moves both.
    """
    leaves1, leaves2 = jax.tree.leaves(first), jax.tree.leaves(second)
    if len(leaves1) != len(leaves2):
        return False, False
    if all(map(operator.is_, leaves1, leaves2)):
        return True, True
    told = are_equal(leaves1, leaves2)
    same = bool(told) if is_concrete(told) else None
    return same, same is True and is_concrete((leaves1, leaves2))


def _names_of(get: Any) -> tuple[str, ...]:
    if not (is_get(get) or (isinstance(get, (tuple, list)) and not get)):
        raise TypeError(
            f"get must be 'nngp', 'ntk', a tuple of them or None (both), got {describe(get)}. "
            "kernel_fn(x1, x2, get) of a stax network takes no parameters: its width is infinite. "
            "Kernels of a finite network are nt.empirical_kernel_fn(apply_fn)(x1, x2, params)."
        )
    return canonical_get(get)


def _check_keywords(kwargs: dict[str, Any]) -> None:
    unknown = sorted(set(kwargs) - {"pattern", "rng"})
    if unknown:
        raise TypeError(
            f"kernel_fn has no argument {unknown[0]!r}; it takes x1, x2, get and, for Aggregate, "
            "pattern."
        )


def _check_arrays(name: str, x: Any) -> None:
    """Arrays of numbers, one for each input of the network."""
    for path, leaf in named_leaves(name, x) or [(name, x)]:
        if isinstance(leaf, str):
            raise TypeError(f"{path} must be an array, got {leaf!r}. Name kernels by get={leaf!r}.")
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(
                f"{name} must be an array, or for a network of several inputs a list of them, got "
                f"{describe(leaf)} as {path}. Make it an array: jnp.asarray({name})."
            )
        if not (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool):
            raise TypeError(f"{path} must hold numbers, got {describe(leaf)}.")


def no_closed_form(name: str, why: str) -> NotImplementedError:
    """What is raised for a layer whose limit is not known."""
    return NotImplementedError(f"{name} has no closed-form kernel here: {why}.")


def no_params(rng: Any, input_shape: Any) -> Any:
    """`init_fn` of a layer that has no parameters and keeps the shape."""
    return input_shape, ()
