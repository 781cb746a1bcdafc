"""Layers that join branches: by sum, or one beside the other."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from ._axes import checked_axis
from ._covariance import Covariance, Need
from ._layer import KernelFn, Layer, Rule, no_closed_form, seen


def FanInSum() -> Layer:
    """The sum of branches: `[x_1, ..., x_k] -> x_1 + ... + x_k`.

    Its kernels are sums, since the branches' covariances with each other vanish: all branches but
    one must end in layers with parameters of their own (a bias or not), not in a nonlinearity.

    Raises:
        ValueError: branches of different shapes.
        NotImplementedError: `kernel_fn` of branches whose covariances do not vanish.

    Cost: of a sum.

    Source: Yang, "Tensor Programs I" (2019), section 2, for the independence.

    Example:
        >>> import jax.numpy as jnp
        >>> from tangax import stax
        >>> print(stax.FanInSum().apply_fn((), [jnp.ones(2), jnp.ones(2)]))
        [2. 2.]
    """
    name = "FanInSum"

    def init_fn(rng: Any, input_shape: Any) -> Any:
        _check_branches(name, input_shape, tuple)
        _check_equal(name, input_shape)
        return input_shape[0], ()

    def apply_fn(params: Any, inputs: Any, **kwargs: Any) -> Any:
        _check_branches(name, inputs)
        _check_equal(name, [x.shape for x in inputs])
        return functools.reduce(operator.add, inputs)

    def rule(cs: Sequence[Covariance], **kwargs: Any) -> Covariance:
        _check_equal(name, [(*c.positions, c.channels) for c in cs])
        _check_independent(name, cs)
        return joined(name, cs, sum)

    return Layer(init_fn, apply_fn, _joining(name, rule))


def FanInConcat(axis: int = -1) -> Layer:
    """Branches joined along an axis.

    Along the channels the kernel is the mean of the branches', weighted by their channels. Along
    an axis of positions the pairs of positions of different branches have covariance zero.

    Args:
        axis: the axis of the arrays.

    Raises:
        ValueError: branches that differ in other axes; `kernel_fn` along the batch axis.
        NotImplementedError: `kernel_fn` along positions of branches that are not independent.

    Cost: of a copy.

    Source: Huang et al., "Densely Connected Convolutional Networks" (2017), section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from tangax import stax
        >>> stax.FanInConcat().init_fn(None, [(5, 3), (5, 4)])
        ((5, 7), ())
    """
    name = f"FanInConcat({axis})"

    def check_alike(shapes: Sequence[Any]) -> None:
        places = [checked_axis(name, axis, shape) for shape in shapes]
        _check_equal(name, [_without(s, place) for s, place in zip(shapes, places, strict=True)])

    def init_fn(rng: Any, input_shape: Any) -> Any:
        _check_branches(name, input_shape, tuple)
        check_alike(input_shape)
        shape = list(input_shape[0])
        shape[axis] = sum(each[axis] for each in input_shape)
        return tuple(shape), ()

    def apply_fn(params: Any, inputs: Any, **kwargs: Any) -> Any:
        _check_branches(name, inputs)
        check_alike([x.shape for x in inputs])
        return jnp.concatenate(inputs, axis)

    def rule(cs: Sequence[Covariance], **kwargs: Any) -> Covariance:
        along = checked_axis(name, axis, [1] * (len(cs[0].positions) + 2))
        batch_axis, channel_axis = cs[0].axes
        if along == batch_axis:
            raise ValueError(f"{name}: along the batch axis there is no kernel of pairs.")
        if along == channel_axis:
            _check_equal(name, [c.positions for c in cs])
            return _mean_of_channels(name, cs)
        place = cs[0].places.index(along)
        _check_equal(name, [(*_without(c.positions, place), c.channels) for c in cs])
        _check_independent(name, cs)
        return _concatenated(name, cs, place)

    return Layer(init_fn, apply_fn, _joining(name, rule))


def _mean_of_channels(name: str, cs: Sequence[Covariance]) -> Covariance:
    """Branches joined along their channels, which are no longer draws of one function."""
    channels = sum(c.channels for c in cs)
    shares = [c.channels / channels for c in cs]
    mean = joined(name, cs, lambda arrays: sum(map(operator.mul, shares, arrays)))
    return replace(mean, channels=channels, gaussian=mean.gaussian and len(cs) == 1)


def _concatenated(name: str, cs: Sequence[Covariance], place: int) -> Covariance:
    axes = cs[0].position_axes[place]
    sizes = [c.positions[place] for c in cs]

    def block(array: Any, branch: int) -> Any:
        """The rows of one branch: its pairs with another's are zero."""
        if len(axes) == 1:
            return array
        pads = [(0, 0)] * array.ndim
        pads[axes[1]] = sum(sizes[:branch]), sum(sizes[branch + 1 :])
        return jnp.pad(array, pads)

    def join(arrays: Sequence[Any]) -> Any:
        return jnp.concatenate([block(a, i) for i, a in enumerate(arrays)], axes[0])

    return joined(name, cs, join)


def joined(name: str, cs: Sequence[Covariance], join: Callable[..., Any]) -> Covariance:
    """Branches as one: each of their moments by `join`, and what they have in common."""
    axes = {c.axes for c in cs}
    if len(axes) > 1:
        raise ValueError(f"{name}: its branches have batch and channels at different axes: {axes}.")
    if all(c.ntk is None for c in cs):
        ntk = None
    else:
        ntk = join([jnp.zeros_like(c.nngp) if c.ntk is None else c.ntk for c in cs])
    return replace(
        cs[0],
        nngp=join([c.nngp for c in cs]),
        ntk=ntk,
        own1=join([c.own1 for c in cs]),
        own2=join([c.own2 for c in cs]),
        gaussian=all(c.gaussian for c in cs),
        centred=all(c.centred for c in cs),
        depth=max(c.depth for c in cs),
        shared=frozenset().union(*(c.shared for c in cs)),
    )


def _joining(name: str, rule: Rule) -> KernelFn:
    def plan(need: Need) -> tuple[Need, Rule]:
        def forward(cs: Any, **kwargs: Any) -> Any:
            _check_branches(name, cs)
            return rule([seen(need, c) for c in cs], **kwargs)

        return need, forward

    return KernelFn(name, plan)


def _check_independent(name: str, cs: Sequence[Covariance]) -> None:
    """Every two branches have covariance zero: apart in what is random, one of them with mean zero.

    Randomness is shared by what comes from one branching, or from inputs, without a layer of
    parameters in between.
    """
    for i, a in enumerate(cs):
        for b in cs[:i]:
            if a.shared & b.shared or not (a.centred or b.centred):
                raise no_closed_form(
                    name,
                    "two branches are not independent with mean zero. Let all but one end in a "
                    "Dense or Conv layer, after the branching and after any nonlinearity",
                )


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(size for a, size in enumerate(shape) if a != axis % len(shape))


def _check_branches(name: str, given: Any, kind: Any = Any) -> None:
    """Several arrays, or shapes that are a `kind`, rather than one."""
    one = not isinstance(given, (list, tuple)) or not given
    if one or (kind is tuple and not all(isinstance(shape, (list, tuple)) for shape in given)):
        raise ValueError(f"{name} joins branches, but its input is one: put parallel before it.")


def _check_equal(name: str, shapes: Sequence[Any]) -> None:
    if len({tuple(shape) for shape in shapes}) != 1:
        raise ValueError(f"{name}: its branches do not match: {[tuple(s) for s in shapes]}.")
