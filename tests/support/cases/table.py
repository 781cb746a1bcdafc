"""What a case is, and the table into which the sections put theirs.

A row is a function of a batch `x` and of named parameters, with the shapes of both:

    case("multiply", lambda x, w: w * x, w=(4,), polynomial=1)

    @case(x=(3, 4), w=(4, 4))
    def rnn(x, w): ...

A tuple is the shape of a float64 array of random numbers (a parameter's, or one example's: the
batch axis comes in front); a function `(rng, lead) -> array` makes any other leaf, `lead` being
the batch axis; lists and dicts are pytrees of these. Numbers come from a generator seeded by the
name. They lie in +-[0.2, 0.95], so that none is 0 or 1.
"""

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True, eq=False)
class Case:
    """A function and inputs to try it on."""

    name: str
    f: Callable[..., Any]  # f(params, x, **kwargs) of a batch
    params: Any
    x1: Any
    x2: Any
    kwargs: dict
    batched: bool = True  # independent examples, axis 0 everywhere: vmap_axes=0 is right
    forward: bool = True  # has forward mode (not so a custom_vjp)
    reverse: bool = True  # has reverse mode (not so a while_loop over parameters)
    polynomial: int | None = None  # the degree, where f is a polynomial of all params jointly
    smooth: bool = True  # no kinks anywhere (inputs are off the kinks anyway)
    tolerance: float = 1e-10  # wider where JAX computes in float32 whatever its input


@dataclass(frozen=True)
class Row:
    """What is known of a case before it is built."""

    build: Callable[[], Case]
    core: bool  # one of about one row of each kind, for what is too slow on them all
    kinds: str | None  # of the sites where its parameters enter: "bias dense"
    factors: dict[str, str]  # the shapes of the factors of some parameters, with `x2=None`
    exact: bool  # in float64 throughout


ROWS: dict[str, Row] = {}


@functools.cache
def get(name: str) -> Case:
    """The case of that name, built once. Enable x64 before."""
    return ROWS[name].build()


def case(
    name=None,
    f=None,
    *,
    x=(4,),
    x2=None,
    n=3,
    m=2,
    kwargs=None,
    core=False,
    kinds=None,
    factors=None,
    **spec,
):
    """Put `f(x, **params, **kwargs)` into the table; without `f`, a decorator.

    `n` and `m` are the numbers of examples of `x1` and `x2`, `x2` the spec of the latter where it
    differs. `core`, `kinds` and `factors` are those of `Row`. What is no field of `Case` in `spec`
    is a parameter.
    """
    if f is None:
        row = dict(x=x, x2=x2, n=n, m=m, kwargs=kwargs, core=core, kinds=kinds, factors=factors)
        return lambda f: case(name or f.__name__, f, **row, **spec)
    flags = {key: spec.pop(key) for key in FLAGS if key in spec}

    def of_params(params, x, **kwargs):
        return f(x, **params, **kwargs)

    def build():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        params, x1 = fill(spec, rng, ()), fill(x, rng, (n,))
        second = fill(x if x2 is None else x2, rng, (m,))
        return Case(name, of_params, params, x1, second, kwargs or {}, **flags)

    assert name not in ROWS, f"two cases are called {name!r}"
    ROWS[name] = Row(build, core, kinds, factors or {}, "tolerance" not in flags)
    return f


FLAGS = ("batched", "forward", "reverse", "polynomial", "smooth", "tolerance")


def fill(spec, rng, lead):
    """A tree of arrays from a tree of shapes and functions."""

    def leaf(spec):
        return spec(rng, lead) if callable(spec) else jax.device_put(signed(rng, lead + spec))

    return jax.tree.map(leaf, spec, is_leaf=lambda s: isinstance(s, tuple) or callable(s))


def signed(rng, shape):
    return rng.uniform(0.2, 0.95, shape) * rng.choice([-1.0, 1.0], shape)


def positive(*shape):
    """Random numbers in [0.2, 0.95]."""
    return lambda rng, lead: jax.device_put(rng.uniform(0.2, 0.95, lead + shape))


def integers(low, high, *shape):
    """Random integers, `low` included and `high` not."""
    return lambda rng, lead: jax.device_put(rng.integers(low, high, lead + shape))


def value(make):
    """One fixed value, e.g. a PRNG key."""
    return lambda rng, lead: make()


def each(f):
    """`f` of one example made a function of a batch by `vmap` inside the function itself."""

    def of_batch(x, **params):
        return jax.vmap(lambda example: f(example, **params))(x)

    of_batch.__name__ = f.__name__
    return of_batch
