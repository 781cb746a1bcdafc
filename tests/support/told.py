"""Functions that differ in one value somewhere, for `test_fingerprint.py` and its child.

`python told.py` prints the digests as a fresh process has them.
"""

import functools
import json
from typing import NamedTuple

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.extend.random
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from jax import lax
from jax.experimental import io_callback
from jax.experimental import pallas as pl

from tangax import empirical_kernel_fn
from tangax._blocks import fingerprint
from tangax._blocks.examples import read_sides
from tangax._blocks.halves import Call

W, X = np.linspace(-1, 1, 9).reshape(3, 3), np.linspace(0.1, 2, 6).reshape(2, 3)


def digest(g, names=("ntk",)):
    """That of `f(w, x) = g(x w)`, for a `g` of an array `[n, 3]`."""
    kernel_fn = empirical_kernel_fn(lambda w, x: g(x @ w), vmap_axes=0)
    both = read_sides(X, None, 0, {}, planned=False)
    return fingerprint.function_digest(Call(kernel_fn, names, both, W))


# What differs: each is a function of an array of any shape, and of the value in it.


def literal(c):
    return lambda z: jnp.sin(z) * c


def entry(c):
    """An array whose repr is cut short, in one entry of its middle."""
    many = np.zeros(5000)
    many[2500] = c
    many = jnp.asarray(many)
    return lambda z: z * many[jnp.arange(2500, 2501)].sum() + many.sum()


def integer_power(c):
    return lambda z: lax.integer_pow(z, int(c))


def random_numbers(c):
    def g(z):
        with jax.threefry_partitionable(c > 2):
            return z * jax.random.normal(jax.random.key(0), z.shape)

    return g


def dtype(c):
    return lambda z: z.astype(jnp.float32 if c > 2 else jnp.float16).astype(z.dtype)


def precision(c):
    chosen = lax.Precision.HIGHEST if c > 2 else lax.Precision.DEFAULT
    return lambda z: z * jnp.matmul(jnp.eye(2), jnp.eye(2), precision=chosen).sum()


def rule(c):
    f = jax.custom_jvp(jnp.sin)
    f.defjvp(lambda p, t: (f(*p), c * t[0]))
    return f


def rule_of_zeros(c):
    f = jax.custom_jvp(jnp.sin)
    f.defjvp(lambda p, t: (f(*p), t[0] * c), symbolic_zeros=True)
    return f


def rule_without(c):
    f = jax.custom_jvp(lambda k, z: k * z, nondiff_argnums=(0,))
    f.defjvp(lambda k, p, t: (f(k, *p), k * t[0]))
    return functools.partial(f, c)


def forward_rule(c):
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda z: (jnp.sin(z) * c, z), lambda z, g: (g * z,))
    return f


def backward_rule(c):
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda z: (jnp.sin(z), z), lambda z, g: (g * c,))
    return f


def backward_rule_in_closure(c):
    f = jax.custom_vjp(jnp.sin)
    scale = functools.partial(jnp.multiply, c)
    f.defvjp(lambda z: (jnp.sin(z), None), lambda _, g: (scale(g),), optimize_remat=True)
    return f


def primal_of_rule(c):
    f = jax.custom_vjp(lambda z: z * c)
    f.defvjp(lambda z: (z, None), lambda _, g: (g,))
    return f


def custom_gradient(c):
    return jax.custom_gradient(lambda z: (jnp.sin(z), lambda g: g * c))


def reduction(c):
    return lambda z: z + lax.reduce(z, 1.0, lambda a, b: a * b * c, tuple(range(z.ndim)))


def key(c):
    return lambda z: z + jax.random.normal(jax.random.key(int(c)), ())


def kernel(c):
    def body(z, out):
        out[...] = z[...] * c

    f = jax.custom_jvp(
        lambda z: pl.pallas_call(
            body, out_shape=jax.ShapeDtypeStruct(z.shape, z.dtype), interpret=True
        )(z)
    )
    f.defjvp(lambda p, t: (f(*p), t[0]))
    return f


INSIDE = (
    literal, entry, integer_power, dtype, precision, rule, rule_of_zeros, rule_without,
    forward_rule, backward_rule, backward_rule_in_closure, primal_of_rule, custom_gradient,
    reduction, key, random_numbers, kernel,
)  # fmt: skip
# Those whose derivative has no forward mode, and those that differ in their derivative alone.
REVERSE = (
    forward_rule, backward_rule, backward_rule_in_closure, primal_of_rule, custom_gradient,
)  # fmt: skip
DERIVATIVES = (
    rule, rule_of_zeros, forward_rule, backward_rule, backward_rule_in_closure, custom_gradient,
)  # fmt: skip


# Where it stands: each takes a function of an array to another.


def in_while(g):
    return lambda z: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, g(s[1])), (0, z))[1]


def in_condition_of_while(g):
    start = lambda z: (z, jax.lax.stop_gradient(z))  # noqa: E731
    return lambda z: lax.while_loop(
        lambda s: (g(s[1]) < 9).all(), lambda s: (s[0] * 2, s[1] + 1), start(z)
    )[0]


def in_rule(g):
    f = jax.custom_jvp(jnp.sin)
    f.defjvp(lambda p, t: (f(*p), t[0] * g(p[0])))
    return f


def in_linear_solve(g):
    def solve(matvec, b):
        return b / matvec(jnp.ones_like(b))

    return lambda z: lax.custom_linear_solve(
        lambda v: v * (2 + g(z) ** 2), z, solve, transpose_solve=solve
    )


def in_root(g):
    def tangent(h, y):
        return y / h(jnp.ones_like(y))

    return lambda z: lax.custom_root(
        lambda y: y + g(y) * 0.1 - z, jnp.zeros_like(z), lambda h, y: y - h(y), tangent
    )


def in_package(g):
    def one(z):
        matrix = jnp.eye(3) * (2 + g(z.sum()))
        return lx.linear_solve(lx.MatrixLinearOperator(matrix), z).value

    return lambda z: jax.vmap(one)(z) if z.ndim == 2 else g(z)


WHERE = {
    "plain": lambda g: g,
    "jit": lambda g: jax.jit(lambda z: g(z)),
    "cond": lambda g: lambda z: lax.cond(z.sum() > 0, g, jnp.cos, z),
    "switch": lambda g: lambda z: lax.switch(z.astype(int).sum(), [jnp.sin, jnp.cos, g], z),
    "scan": lambda g: lambda z: lax.scan(lambda s, _: (g(s), None), z, length=2)[0],
    "fori": lambda g: lambda z: lax.fori_loop(0, 2, lambda _, s: g(s), z),
    "map": lambda g: lambda z: lax.map(g, z) if z.ndim else g(z),
    "vmap": lambda g: lambda z: jax.vmap(g)(z) if z.ndim else g(z),
    "checkpoint": lambda g: jax.checkpoint(lambda z: g(jnp.tanh(z))),
    "policy": lambda g: jax.checkpoint(
        lambda z: g(jnp.tanh(z)), policy=jax.checkpoint_policies.save_only_these_names("a")
    ),
    "gradient": lambda g: lambda z: jax.grad(lambda y: g(y).sum())(z),
    "named": lambda g: jax.named_call(lambda z: g(z), name="some"),
    "callable": lambda g: functools.partial(lambda h, z: h(z), g),
    "rule": in_rule,
    "while": in_while,
    "condition": in_condition_of_while,
    "linear solve": in_linear_solve,
    "root": in_root,
    "equinox while": lambda g: (
        lambda z: eqxi.while_loop(
            lambda s: s[0] < 2,
            lambda s: (s[0] + 1, g(s[1])),
            (0, z),
            kind="checkpointed",
            max_steps=3,
        )[1]
    ),
    "error": lambda g: lambda z: eqx.error_if({"a": None, "b": g(z)}, z.sum() > 1e9, "large")["b"],
    "package": in_package,
}


# Where only the value of a function counts, and where none but forward mode goes.
VALUES, FORWARD = {"rule", "condition"}, {"while"}


def pairs():
    """By name, functions of the value: in every place, and in one place within another."""
    found = {}

    def put(inside, *places):
        unseen = VALUES.intersection(places) and inside in DERIVATIVES
        if unseen or (FORWARD.intersection(places) and inside in REVERSE):
            return
        found[" in ".join([inside.__name__, *places])] = lambda c: functools.reduce(
            lambda g, place: WHERE[place](g), places, inside(c)
        )

    for place in WHERE:
        for inside in INSIDE if place in ("plain", "while", "scan") else (entry, rule):
            put(inside, place)
    rng = np.random.default_rng(0)
    places = [w for w in WHERE if w not in ("while", "condition", "gradient", "equinox while")]
    for _ in range(24):
        put(INSIDE[rng.integers(len(INSIDE))], *rng.choice(places, 2))
    return found


# What is not to be seen, and words of the refusal.


def called(wrap):
    return lambda c: (
        lambda z: jax.pure_callback(
            wrap(c),
            jax.ShapeDtypeStruct(z.shape, z.dtype),
            lax.stop_gradient(z),
            vmap_method="expand_dims",
        )
    )


class Scaled(NamedTuple):
    by: float

    def __call__(self, z):
        return z * self.by


class Hidden:
    def __init__(self, by):
        self.by = by

    def __call__(self, z):
        return z * self.by

    method = __call__


def batched(c):
    f = jax.custom_batching.custom_vmap(jnp.sin)
    f.def_vmap(lambda size, batched, z: (jnp.sin(z) * c, batched[0]))
    return lambda z: z * f(lax.stop_gradient(z))


def transposed(c):
    return lambda z: jax.custom_derivatives.linear_call(
        lambda r, v: r * v, lambda r, v: r * v * c, 1.0, z
    )


def own_primitive(c):
    scale = jax.extend.core.Primitive("scale")
    scale.def_impl(lambda z: z * c)
    scale.def_abstract_eval(lambda z: z)
    return lambda z: z + scale.bind(lax.stop_gradient(z))


def own_keys(c):
    def bits(key, bit_width, shape):
        return jnp.full(shape, int(c), f"uint{bit_width}")

    impl = jax.extend.random.define_prng_impl(
        key_shape=(2,), seed=lambda s: jnp.zeros(2, "uint32"), split=lambda key, shape: key,
        random_bits=bits, fold_in=lambda key, data: key, name="own", tag="own",
    )  # fmt: skip
    return lambda z: z * jax.random.normal(jax.random.key(0, impl=impl), ())


REFUSED = {
    "own keys": own_keys,
    "lambda": called(lambda c: lambda z: z * c),
    "partial": called(lambda c: functools.partial(lambda c, z: z * c, c)),
    "object": called(Hidden),
    "method": called(lambda c: Hidden(c).method),
    "namedtuple": called(Scaled),
    "vectorize": called(lambda c: np.vectorize(lambda z: z * c)),
    "frompyfunc": called(lambda c: np.frompyfunc(lambda z: z * c, 1, 1)),
    "io_callback": lambda c: (
        lambda z: z * io_callback(lambda: np.float64(c), jax.ShapeDtypeStruct((), "float64"))
    ),
    "callback in a loop": lambda c: in_while(called(lambda c: lambda z: z * c)(c)),
    "callback in a rule": lambda c: in_rule(called(lambda c: lambda z: z * c)(c)),
    "callback in a package": lambda c: in_package(called(lambda c: lambda z: z * c)(c)),
    "rule for vmap": batched,
    "transpose in a loop": lambda c: in_while(transposed(c)),
    "own primitive": own_primitive,
    **{f"{i.__name__} in while": lambda c, i=i: in_while(i(c)) for i in REVERSE},
}


# What looks hidden and is not.


def ode(z):
    """With the callbacks of Diffrax that raise errors."""
    term = dfx.ODETerm(lambda t, y, _: -y)

    def one(y):
        return dfx.diffeqsolve(term, dfx.Euler(), 0.0, 1.0, 0.5, y, max_steps=2).ys[0]

    return jax.vmap(one)(z)


def fixed_point(z):
    solver = optx.FixedPointIteration(1e-6, 1e-6)
    one = lambda v: optx.fixed_point(lambda y, _: jnp.tanh(0.3 * y + v), solver, v).value  # noqa: E731
    return jax.vmap(one)(z)


def printing(z):
    jax.debug.print("{}", z)
    jax.debug.callback(lambda z: None, z)
    io_callback(lambda z: None, None, lax.stop_gradient(z))
    return z


TOLD = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "softmax": jax.nn.softmax,
    "attention": lambda z: jax.nn.dot_product_attention(*[z[:, None, None]] * 3)[:, 0, 0],
    "printing": printing,
    "a function of NumPy": called(lambda c: np.sin)(0),
    "a part of one": called(lambda c: functools.partial(np.multiply, 2.0))(0),
    "interp": lambda z: jnp.interp(z, jnp.arange(3.0), jnp.arange(3.0) ** 2),
    "sorted": lambda z: jnp.sort(z) + jnp.median(z) + lax.top_k(z, 2)[0].sum(),
    "linalg": lambda z: z * jnp.linalg.slogdet(z.T @ z + jnp.eye(3))[1],
    "random": lambda z: z * jax.random.gamma(jax.random.key(0), 3.0) + jax.random.bernoulli(
        jax.random.PRNGKey(0)),
    "rule in a vmap": jax.vmap(batched(2.0)),
    "transpose": transposed(2.0),
    "diffrax": ode,
    "optimistix": fixed_point,
    "equinox": lambda z: jax.vmap(eqx.nn.MLP(3, 3, 4, 1, key=jax.random.key(0)))(z),
    "unknown derivative": lambda z: z + in_while(backward_rule(2.0))(lax.stop_gradient(z)),
}  # fmt: skip


def digests():
    """By name: of everything that differs in one place, of one in every place, of all else."""
    few = [n for n in pairs() if n.endswith("in plain") or (n[:4], n.count(" in ")) == ("rule", 1)]
    return {n: digest(pairs()[n](2.0)) for n in few} | {n: digest(g) for n, g in TOLD.items()}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(json.dumps(digests()))
