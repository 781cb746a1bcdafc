"""Random programs over the primitives in which parameters enter, for Hypothesis to draw and shrink.

A program is a tuple of steps `(name, number)`; `build` makes the function and its arguments of it.
Each step takes `h: [tokens, channels]` of one example to another such array; the number chooses
among its variants. A parameter is new, or an earlier one of the same shape (tied), and may be seen
through a view or a function of its own before it is used.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

TOKENS, CHANNELS, N, M = 3, 4, 2, 2


@dataclass
class Builder:
    """The steps so far as functions `(params, h) -> h`, the parameters, and the shape of `h`."""

    rng: np.random.Generator
    shape: tuple[int, int] = (TOKENS, CHANNELS)
    params: list[jax.Array] = field(default_factory=list)
    steps: list[Callable[[Any, Any], Any]] = field(default_factory=list)

    def uniform(self, *shape):
        """Random numbers, none of them 0 or 1."""
        values = self.rng.uniform(0.2, 0.9, shape) * self.rng.choice([-1.0, 1.0], shape)
        return jnp.asarray(values)

    def parameter(self, shape, number):
        """A function from `params` to an array of that shape."""
        tied = [a for a, w in enumerate(self.params) if w.shape == shape]
        if number % 3 == 1 and tied:
            a, turned = tied[number % len(tied)], False
        else:
            a, turned = len(self.params), number % 5 == 1
            self.params.append(self.uniform(*(shape[::-1] if turned else shape)))
        own = OWN[number // 3 % len(OWN)]
        return lambda params: own(params[a].T if turned else params[a])


# What a parameter may go through before it meets the data: most often nothing.
OWN: list[Callable[[Any], Any]] = [
    lambda w: w,
    lambda w: w,
    lambda w: w,
    lambda w: 0.5 * w,
    lambda w: w.reshape(-1).reshape(w.shape),
    lambda w: jnp.sin(w),
    lambda w: w / jnp.sqrt(1 + (w * w).sum()),
    lambda w: -w[::-1],
    lambda w: jnp.concatenate([w[:1], 2 * w[1:]]),
    lambda w: jnp.concatenate([w, w[:0], 0.5 * w])[::2][: len(w)],
    lambda w: jnp.unstack(jnp.stack([2 * w, w]))[1],
]


def dense(b, number):
    tokens, channels = b.shape
    units = 2 + number % 3
    w = b.parameter((channels, units), number)
    variant = number % 4
    bias = b.parameter((units,), number // 2) if variant == 2 else None
    b.shape = (tokens, units)

    def step(params, h):
        if variant == 1:
            return jnp.einsum("co,tc->to", w(params), h)
        if variant == 3:
            return (w(params).T @ h.T).T
        return h @ w(params) + (0 if bias is None else bias(params))

    return step


def conv(b, number):
    tokens, channels = b.shape
    groups = channels if number % 4 == 1 else 1
    units = channels if groups > 1 else 3
    w = b.parameter((2, channels // groups, units), number)
    stride = 1 + (number % 3 == 2)
    dims = ("NWC", "WIO", "NWC")

    def step(params, h):
        return lax.conv_general_dilated(
            h[None],
            w(params),
            (stride,),
            "SAME",
            dimension_numbers=dims,
            feature_group_count=groups,
        )[0]

    b.shape = (-(-tokens // stride), units)
    return step


def elementwise(b, number):
    functions = (jnp.tanh, jnp.sin, jax.nn.sigmoid, lambda h: 0.3 * h * h, jax.nn.softplus)
    return lambda params, h: functions[number % len(functions)](h)


def gain(b, number):
    w = b.parameter((b.shape[1],), number)

    def step(params, h):
        if number % 2:
            h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 0.1)
        return h * w(params)

    return step


def shift(b, number):
    w = b.parameter(b.shape if number % 2 else (b.shape[1],), number)
    return lambda params, h: h - w(params) if number % 4 > 1 else w(params) + h


def reshape(b, number):
    tokens, channels = b.shape
    if number % 2:
        b.shape = (channels, tokens)
        return lambda params, h: h.T
    divisors = [d for d in range(1, tokens * channels + 1) if tokens * channels % d == 0]
    d = divisors[number % len(divisors)]
    b.shape = (tokens * channels // d, d)
    return lambda params, h: h.reshape(-1, d)


def cut(b, number):
    tokens, channels = b.shape
    if number % 2 and channels > 1:
        b.shape = (tokens, channels - 1)
        return lambda params, h: h[:, 1:]
    if tokens > 1:
        b.shape = (tokens - 1, channels)
        return lambda params, h: h[:-1]
    return lambda params, h: h[::-1]


def join(b, number):
    tokens, channels = b.shape
    if tokens * channels > 16:
        return lambda params, h: h + jnp.tanh(h)
    axis = number % 2
    b.shape = (2 * tokens, channels) if axis == 0 else (tokens, 2 * channels)
    return lambda params, h: jnp.concatenate([h, jnp.tanh(h)], axis)


def join_weights(b, number):
    tokens, channels = b.shape
    variant = number % 4
    if variant == 0 and channels > 1:  # by inputs
        first, second = b.parameter((1, 3), number), b.parameter((channels - 1, 3), number // 2)
        b.shape = (tokens, 3)
        return lambda params, h: h @ jnp.concatenate([first(params), second(params)])
    if variant == 1:  # a stack, perhaps of layers
        first, second = (b.parameter((channels, channels), n) for n in (number, number // 2))

        def step(params, h):
            stack = jnp.stack([first(params), 0.5 * second(params)])
            if number % 3:
                return jnp.einsum("ti,kij->tj", h, stack)
            return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, stack)[0]

        return step
    first, second = b.parameter((channels, 2), number), b.parameter((channels, 1), number // 2)
    b.shape = (tokens, 3)
    if variant == 2:  # by units
        return lambda params, h: h @ jnp.concatenate([first(params), second(params)], 1)

    def both(params, h):  # flat, and apart again
        flat = jnp.concatenate([first(params).ravel(), second(params).ravel()])
        one, two = flat[: 2 * channels].reshape(channels, 2), flat[2 * channels :]
        return jnp.concatenate([h @ one, jnp.tanh(h @ two.reshape(channels, 1))], 1)

    return both


def reduce(b, number):
    axis = number % 2
    if number % 3 == 0:
        return lambda params, h: h - h.mean(axis, keepdims=True)
    b.shape = (1, b.shape[1]) if axis == 0 else (b.shape[0], 1)
    return lambda params, h: h.sum(axis, keepdims=True)


def gather(b, number):
    tokens, _ = b.shape
    ids = jnp.asarray(b.rng.integers(0, 3, tokens))
    table = b.parameter((3, b.shape[1]), number)
    if number % 2:
        order = jnp.asarray(b.rng.integers(0, tokens, tokens))
        return lambda params, h: h[order] * table(params)[ids]
    if number % 3:
        return lambda params, h: h + jnp.take(table(params), ids, axis=0)
    return lambda params, h: h + jax.vmap(lambda i: table(params)[i])(ids)


def layers(b, number):
    channels = b.shape[1]
    w = b.parameter((2, channels, channels), number)
    v = b.parameter((2, channels), number // 2)

    def step(params, h):
        def body(h, weights):
            w, v = weights
            return jnp.tanh(h @ w + v), None

        body = jax.checkpoint(body) if number % 2 else body
        return lax.scan(body, h, (w(params), v(params)), reverse=number % 4 == 2)[0]

    return step


def recurrent(b, number):
    channels = b.shape[1]
    w = b.parameter((channels, channels), number)
    first = b.parameter((channels,), number // 2)

    def step(params, h):
        matrix, begin = w(params), first(params)

        def body(state, x):
            state = jnp.tanh(state @ matrix + x)
            return state, state

        return lax.scan(body, begin, h, reverse=bool(number % 2))[1]

    return step


def wrapped(b, number):
    """The next kind of step inside a `checkpoint`, a `jit` or a `custom_jvp`."""
    inner = STEPS[number % len(PLAIN)](b, number // len(PLAIN))
    if number % 3 == 0:
        return jax.checkpoint(inner)
    if number % 3 == 1:
        return jax.jit(inner)

    @jax.custom_jvp
    def half(h):
        return h

    half.defjvps(lambda t, _, h: 0.5 * t)
    return lambda params, h: half(inner(params, h))


def residual(b, number):
    w = b.parameter((b.shape[1], b.shape[1]), number)
    return lambda params, h: h + jnp.tanh(h @ w(params))


def complex_data(b, number):
    channels = b.shape[1]
    w = b.parameter((channels, channels), number)
    variant = number % 4

    def step(params, h):
        z = jnp.exp(1j * h)
        if variant == 0:
            return jnp.real(lax.dot(z, w(params)))
        if variant == 1:
            return jnp.abs(z @ ((1 + 2j) * w(params).astype(complex)) + 0.3)
        if variant == 2:
            return jnp.imag(jnp.fft.fft(h, axis=-1) * w(params)[0] + w(params)[-1])
        return jnp.real(w(params).T @ z.T).T

    return step


@jax.custom_jvp
def skipping(w, h):
    return jnp.tanh(h @ w)


def skipping_rule(primals, tangents):
    """As the derivative is, but of operands that do not move nothing is computed."""
    (w, h), (dw, dh) = primals, tangents
    y = skipping(w, h)
    still = [isinstance(t, jax.custom_derivatives.SymbolicZero) for t in tangents]
    terms = [x for x, zero in ((lambda: h @ dw, still[0]), (lambda: dh @ w, still[1])) if not zero]
    return y, (1 - y**2) * sum(term() for term in terms)


skipping.defjvp(skipping_rule, symbolic_zeros=True)


def rule(b, number):
    w = b.parameter((b.shape[1], b.shape[1]), number)
    if number % 2:
        return lambda params, h: skipping(w(params), h)
    return lambda params, h: lax.cond(
        h[0, 0] > 0, skipping, lambda w, h: jnp.sin(h @ w), w(params), h
    )


def literal(b, number):
    w = b.parameter((b.shape[1],), number)
    functions = (
        lambda w: lax.clamp(-0.5, w, 0.6),
        lambda w: lax.max(w, 0.1),
        lambda w: lax.div(1.0, w),
        lambda w: lax.pad(w, 0.0, [(1, -1, 0)]),
        lambda w: lax.sub(2.0, w),
        lambda w: lax.integer_pow(w, 3),
    )
    return lambda params, h: h * functions[number % len(functions)](w(params))


def far_ids(b, number):
    tokens, channels = b.shape
    table = b.parameter((5, channels), number)
    dtype = (np.uint32, np.int64, np.int8, np.uint64)[number % 4]
    # Constant ids beyond 2^63: XLA's own value of `f` changes under `jit(vmap(f))`.
    far = np.array([2**31 + 1, 2**32 + 2, -3, 2**62 + 4][number % 4], object) if number % 3 else 6
    mode = ("clip", "fill", "wrap")[number % 3]
    if mode == "fill" and far > 2**32:  # JAX's forward mode wraps such an id, its reverse mode not
        mode = "clip"
    ids = np.array([far if a == 1 else (2 * a) % 5 for a in range(tokens)], object).astype(dtype)

    def step(params, h):
        rows = jnp.take(table(params), jnp.asarray(ids), axis=0, mode=mode, fill_value=0.5)
        return h + (rows if number % 2 else rows * h)

    return step


def short_data(b, number):
    tokens, channels = b.shape
    w = b.parameter((channels, 3), number)
    dtype = (jnp.int8, bool, jnp.int32, jnp.uint8)[number % 4]
    b.shape = (tokens, 3)

    def step(params, h):
        short = jnp.abs(3 * lax.stop_gradient(h)).astype(dtype)
        return short @ w(params) + jnp.tanh(h[:, :1])

    return step


def collective(b, number):
    w = b.parameter((b.shape[1], b.shape[1]), number)

    def row(params, v):
        v = v @ w(params)
        if number % 3 == 0:
            return v - lax.pmean(v, "rows")
        if number % 3 == 1:
            return lax.all_gather(v, "rows").sum(0) * jnp.tanh(v)
        return lax.psum(v * lax.axis_index("rows"), "rows") + v

    return lambda params, h: jax.vmap(row, (None, 0), axis_name="rows")(params, h)


def written(b, number):
    w = b.parameter((2, b.shape[1], b.shape[1]), number)

    def step(params, h):
        total = jax.new_ref(h)

        def add(carry, w):
            total[...] += jnp.tanh(total[...] @ w)
            return carry, None

        lax.scan(add, 0, w(params))
        return total[...]

    return step


NEWER = (complex_data, rule, literal, far_ids, short_data, collective)
if jax.__version_info__ >= (0, 12):  # JAX 0.10 makes no `Ref` of what is mapped over a later axis
    NEWER += (written,)
PLAIN = (dense, conv, elementwise, gain, shift, reshape, cut, join, join_weights, reduce, gather)
STEPS = (*PLAIN, layers, recurrent, residual, wrapped, *NEWER)
NAMES = {step.__name__: step for step in STEPS}

programs = st.lists(
    st.tuples(st.sampled_from(sorted(NAMES)), st.integers(0, 65)), min_size=1, max_size=6
)


def build(program):
    """`f(params, x)`, `params`, `x1`, `x2` of a program.

    In half of them every parameter has one more, nonlinear use: its Jacobian is then whole, in the
    parameter's own shape.
    """
    seed = zlib.crc32(repr(program).encode())
    b = Builder(np.random.default_rng(seed))
    steps = [NAMES[name](b, number) for name, number in program]

    def one(params, h):
        for step in steps:
            h = step(params, h)
        return h

    x1, x2 = b.uniform(N, TOKENS, CHANNELS), b.uniform(M, TOKENS, CHANNELS)
    params = [*b.params, b.uniform(b.shape[1], 1)]

    def f(params, x):
        out = jax.vmap(one, (None, 0))(params[:-1], x)
        if seed % 2:
            out = out + sum(jnp.sin(jnp.arange(w.size) * w.ravel()).sum() for w in params)
        weights = jnp.linspace(0.5, 1.5, out.shape[1])
        return jnp.concatenate([weights @ out, (jnp.tanh(out) @ params[-1]).mean(1)], 1)

    return f, params, x1, x2
