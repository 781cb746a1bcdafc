"""Layers of layers: one after another, beside each other, and what joins branches."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .._shared.signature import takes
from ._axes import checked_axis
from ._covariance import Covariance, Need
from ._layer import KernelFn, Layer, Rule, check_one, layer, no_closed_form, no_params, seen


def serial(*layers: Layer) -> Layer:
    """Layers one after another: `x -> f_k(...f_2(f_1(x)))`.

    Args:
        *layers: triples `(init_fn, apply_fn, kernel_fn)`. A pair `(init_fn, apply_fn)` is a layer
            without a closed form; of the keyword arguments it is given those that it takes.

    Returns:
        A layer whose parameters are the list of its layers' parameters. A key that `apply_fn` gets
        as `rng` is split between them; other keyword arguments go to all.

    Raises:
        TypeError: what is no layer.

    Cost: the sum of the layers' costs.

    Source: Jacot et al., "Neural Tangent Kernel" (2018), theorem 1, for the recursion over layers.

    Example:
        >>> import jax
        >>> from tangax import stax
        >>> init_fn, apply_fn, kernel_fn = stax.serial(stax.Dense(8), stax.Erf(), stax.Dense(2))
        >>> shape, params = init_fn(jax.random.key(0), (5, 3))
        >>> shape, len(params)
        ((5, 2), 3)
    """
    layers = _checked("serial", layers)

    def init_fn(rng: Any, input_shape: Any) -> Any:
        params = []
        for each, key in zip(layers, _split_in_turn(rng, len(layers)), strict=True):
            input_shape, own = each.init_fn(key, input_shape)
            params.append(own)
        return input_shape, params

    def apply_fn(params: Any, inputs: Any, *, rng: Any = None, **kwargs: Any) -> Any:
        _check_length("serial", "parameters", params, layers)
        keys = _split_keys(rng, len(layers))
        for each, own, key in zip(layers, params, keys, strict=True):
            inputs = each.apply_fn(own, inputs, rng=key, **kwargs)
        return inputs

    def plan(need: Any) -> tuple[Any, Rule]:
        rules = []
        for each in reversed(layers):
            need, rule = each.kernel_fn.plan(need)
            rules.append(rule)

        def forward(c: Any, **kwargs: Any) -> Any:
            for rule in reversed(rules):
                c = rule(c, **kwargs)
            return c

        return need, forward

    return Layer(init_fn, apply_fn, KernelFn("serial", plan))


def parallel(*layers: Layer) -> Layer:
    """Layers beside each other: `(x_1, ..., x_k) -> (f_1(x_1), ..., f_k(x_k))`.

    Args:
        *layers: triples `(init_fn, apply_fn, kernel_fn)`, one for each input.

    Returns:
        A layer of a list of inputs, mostly from `FanOut`; its parameters are a tuple.

    Raises:
        TypeError: what is no layer.
        ValueError: another number of inputs than of layers.

    Cost: the sum of the layers' costs.

    Source: He et al., "Deep Residual Learning" (2016), for networks of such branches.

    Example:
        >>> import jax
        >>> from tangax import stax
        >>> main = stax.serial(stax.Relu(), stax.Dense(8))
        >>> block = stax.serial(
        ...     stax.FanOut(2), stax.parallel(main, stax.Identity()), stax.FanInSum()
        ... )
        >>> _, _, kernel_fn = stax.serial(stax.Dense(8), block, block)
        >>> kernel_fn(jax.random.normal(jax.random.key(0), (5, 3))).ntk.shape
        (5, 5)
    """
    layers = _checked("parallel", layers)

    def init_fn(rng: Any, input_shape: Any) -> Any:
        if not all(isinstance(shape, (list, tuple)) for shape in input_shape):
            raise ValueError(f"parallel takes a shape for each branch, got one, {input_shape}.")
        _check_length("parallel", "input shapes", input_shape, layers)
        each = zip(layers, _split_keys(rng, len(layers)), input_shape, strict=True)
        shapes, params = zip(*(own.init_fn(key, shape) for own, key, shape in each), strict=True)
        return list(shapes), params

    def apply_fn(params: Any, inputs: Any, *, rng: Any = None, **kwargs: Any) -> Any:
        _check_length("parallel", "inputs", inputs, layers)
        each = zip(layers, params, inputs, _split_keys(rng, len(layers)), strict=True)
        return [own.apply_fn(p, x, rng=key, **kwargs) for own, p, x, key in each]

    def plan(need: Any) -> tuple[Any, Rule]:
        needs = need if isinstance(need, list) else [need] * len(layers)
        _check_length("parallel", "outputs used", needs, layers)
        plans = [own.kernel_fn.plan(each) for own, each in zip(layers, needs, strict=True)]

        def forward(cs: Any, **kwargs: Any) -> Any:
            _check_length("parallel", "inputs", cs, layers)
            return [rule(c, **kwargs) for (_, rule), c in zip(plans, cs, strict=True)]

        return [each for each, _ in plans], forward

    return Layer(init_fn, apply_fn, KernelFn("parallel", plan))


def Identity() -> Layer:
    """The identity, `x -> x`: the other branch of a residual network.

    Cost: none.

    Source: He et al., "Deep Residual Learning" (2016), section 3.2.

    Example:
        >>> from tangax import stax
        >>> stax.Identity().init_fn(None, (5, 3))
        ((5, 3), ())
    """
    return layer("Identity", no_params, lambda params, x, **kwargs: x, lambda c, **kwargs: c)


def FanOut(num: int) -> Layer:
    """Copies: `x -> [x, ..., x]`, for `parallel`.

    Args:
        num: how many.

    Cost: none.

    Source: He et al., "Deep Residual Learning" (2016), section 3.2.

    Example:
        >>> from tangax import stax
        >>> stax.FanOut(2).init_fn(None, (5, 3))
        ([(5, 3), (5, 3)], ())
    """
    name = f"FanOut({num})"
    if num < 1:
        raise ValueError(f"FanOut: num must be positive, got {num}.")

    def plan(need: Any) -> tuple[Need, Rule]:
        needs = need if isinstance(need, list) else [need]

        def forward(c: Any, **kwargs: Any) -> list[Covariance]:
            check_one(name, c)
            return [replace(c, shared=c.shared | {branching}) for _ in range(num)]

        branching = object()
        return _merged(needs), forward

    return Layer(
        lambda rng, input_shape: ([input_shape] * num, ()),
        lambda params, inputs, **kwargs: [inputs] * num,
        KernelFn(name, plan),
    )


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


def _merged(needs: Sequence[Need]) -> Need:
    """What is needed of an input that several branches see."""
    pairs = any(need.pairs for need in needs)
    told = [(need, need.axes) for need in needs if need.axes is not None]
    exact = [need for need, axes in told if axes[1] is not None]
    if exact or len(told) in (0, len(needs)):
        return replace((exact or needs)[0], pairs=pairs)
    # Not all of them flatten it: then the channels are the last axis.
    need, (batch, _) = told[0]
    return replace(need, pairs=pairs, axes=(batch, -2 if batch == -1 else -1))


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


def _checked(name: str, layers: Sequence[Any]) -> tuple[Layer, ...]:
    """Layers as triples; a layer of another make has no closed form."""
    if not layers:
        raise ValueError(f"{name} needs a layer at least.")
    return tuple(_as_layer(f"layer {i} of {name}", each) for i, each in enumerate(layers))


def _as_layer(name: str, given: Any) -> Layer:
    """A triple that ends in a `KernelFn`."""
    if not isinstance(given, tuple) or len(given) not in (2, 3) or not all(map(callable, given)):
        what = "a list: write serial(*layers)" if isinstance(given, list) else repr(given)
        raise TypeError(
            f"{name} is {what}. A layer is a triple (init_fn, apply_fn, kernel_fn); call a layer's "
            "function to make one: Relu(), not Relu."
        )
    if isinstance(given[-1], KernelFn):
        return Layer(*given)
    init_fn, function = given[:2]

    def apply_fn(params: Any, inputs: Any, **kwargs: Any) -> Any:
        own = {key: value for key, value in kwargs.items() if takes(function, key)}
        return function(params, inputs, **own)

    return layer(f"{name} ({getattr(function, '__qualname__', function)})", init_fn, apply_fn, None)


def _split_keys(rng: Any, count: int) -> list[Any]:
    return [None] * count if rng is None else list(jax.random.split(rng, count))


def _split_in_turn(rng: Any, count: int) -> list[Any]:
    """Keys split off one after the other, as for `jax.example_libraries.stax`."""
    keys = []
    for _ in range(count):
        if rng is not None:
            rng, key = jax.random.split(rng)
            keys.append(key)
        else:
            keys.append(None)
    return keys


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(size for a, size in enumerate(shape) if a != axis % len(shape))


def _check_length(name: str, what: str, given: Sequence[Any], layers: Sequence[Any]) -> None:
    if not isinstance(given, (list, tuple)) or len(given) != len(layers):
        count = len(given) if isinstance(given, (list, tuple)) else "one array"
        raise ValueError(f"{name} has {len(layers)} layers, but {what}: {count}.")


def _check_branches(name: str, given: Any, kind: Any = Any) -> None:
    """Several arrays, or shapes that are a `kind`, rather than one."""
    one = not isinstance(given, (list, tuple)) or not given
    if one or (kind is tuple and not all(isinstance(shape, (list, tuple)) for shape in given)):
        raise ValueError(f"{name} joins branches, but its input is one: put parallel before it.")


def _check_equal(name: str, shapes: Sequence[Any]) -> None:
    if len({tuple(shape) for shape in shapes}) != 1:
        raise ValueError(f"{name}: its branches do not match: {[tuple(s) for s in shapes]}.")
