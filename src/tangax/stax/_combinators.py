"""Layers of layers: one after another, beside each other, and what joins branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax

from .._shared.signature import takes
from ._covariance import Covariance, Need
from ._layer import KernelFn, Layer, Rule, check_one, layer, no_params


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


def _check_length(name: str, what: str, given: Sequence[Any], layers: Sequence[Any]) -> None:
    if not isinstance(given, (list, tuple)) or len(given) != len(layers):
        count = len(given) if isinstance(given, (list, tuple)) else "one array"
        raise ValueError(f"{name} has {len(layers)} layers, but {what}: {count}.")
