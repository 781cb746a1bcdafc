"""JAX's settings for finding mistakes: what works without them works under them."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import oracles
from support.arrays import uniform

import tangax as nt


@contextlib.contextmanager
def promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@contextlib.contextmanager
def looked_at():
    with jax.debug_nans(True), jax.checking_leaks():
        yield


SETTINGS = {"promotion": promotion, "looked_at": looked_at, "no_jit": jax.disable_jit}


def short_and_long(p, x):
    """Parameters of 16, 32 and 64 bits, ids of 8, and a mask: every conversion is written out."""
    h = jnp.tanh(x["x"].astype(jnp.bfloat16) @ p["short"]).astype(jnp.float32)
    h = h * p["long"].astype(jnp.float32)[None] + p["table"][x["id"]]
    return (h @ p["head"]).astype(float) * x["mask"].astype(float)[:, None]


def normalised(p, x):
    """`jnp.var` and `jnp.mean` hold a NaN that nobody sees; `where` one that nobody takes."""
    x = x["x"]
    h = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    h = jax.nn.gelu(h @ p["w"]) * p["scale"][None]
    return h / jnp.sqrt(jnp.var(h, -1, keepdims=True) + 1e-5)


def attention(p, x):
    x = x["x"][:, :, None] * p["up"][None, None]
    weights = jax.nn.softmax(jnp.einsum("ntd,nsd->nts", x @ p["q"], x), -1)
    return jnp.einsum("nts,nsd,do->no", weights, x, p["out"])


def convolved(p, x):
    x = x["x"].reshape(-1, 2, 2, 1)
    h = jax.lax.conv_general_dilated(
        x, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(h + p["b"][None, None, None]).mean((1, 2))


def scanned(p, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x["x"] * p["scale"], p["w"])[0]


@jax.custom_jvp
def sine(x):
    return jnp.sin(x)


sine.defjvp(lambda x, t: (jnp.sin(x[0]), t[0] * jnp.cos(x[0])))


def with_rules(p, x):
    w = p["w"] / jnp.linalg.norm(p["w"], axis=0, keepdims=True)
    return sine(x["x"] @ w) * p["s"]


X = {
    "x": uniform(0, 3, 4),
    "id": jnp.array([2, 0, 2], jnp.int8),
    "mask": jnp.array([True, True, False]),
}
FUNCTIONS = {
    short_and_long: {
        "short": uniform(1, 4, 5, dtype="bfloat16"),
        "long": uniform(2, 5),
        "table": uniform(3, 4, 5, dtype="float32"),
        "head": uniform(4, 5, 2, dtype="float32"),
    },
    normalised: {"w": uniform(1, 4, 3), "scale": uniform(2, 3)},
    attention: {"up": uniform(1, 3), "q": uniform(2, 3, 3), "out": uniform(3, 3, 2)},
    convolved: {"k": uniform(1, 2, 2, 1, 2), "b": uniform(2, 2)},
    scanned: {"scale": uniform(1), "w": uniform(2, 2, 4, 4)},
    with_rules: {"w": uniform(1, 4, 2), "s": uniform(2)},
}


def results(f, params, new, *, implementation, blocks):
    """What the library makes of `f`, call by call."""
    kernel_fn = nt.empirical_kernel_fn(f, (), (), 0)
    found = {
        "linearize": nt.linearize(f, params)(new, X),
        "taylor": nt.taylor_expand(f, params, 2)(new, X),
        "vp": nt.empirical_ntk_vp_fn(f, X, None, params)(f(params, X)),
        "both": kernel_fn(X, None, params),
    }
    found["ntk"] = nt.empirical_ntk_fn(f, (), (), 0, implementation)(X, X, params)
    if blocks:
        found["contract"] = kernel_fn.ntk_fn.contract(kernel_fn.ntk_fn.factors(X, params))
        found["batch"] = nt.batch(kernel_fn, 2, memory="1GiB")(X, None, params)
        assert "MACs" in str(kernel_fn.ntk_fn.explain(X, None, params))
    return found


def expected(f, params):
    """By the oracle where all is float64, else by plain JAX."""
    if f is not short_and_long:
        ntk = oracles.naive_ntk(f, params, X)
    else:
        flat = lambda j: j.reshape(6, -1).astype(float)  # noqa: E731
        J = jnp.concatenate([flat(j) for j in jax.jacrev(f)(params, X).values()], -1)
        ntk = (J @ J.T).reshape(3, 2, 3, 2).transpose(0, 2, 1, 3)
    return ntk, oracles.naive_nngp(f, params, X)


@functools.cache
def answers(f):
    """The expected results, computed outside of any setting."""
    params = FUNCTIONS[f]
    ntk, nngp = expected(f, params)
    new = jax.tree.map(lambda w: 1.25 * w, params)
    expansions = {}
    if f is not short_and_long:
        for name, degree in (("linearize", 1), ("taylor", 2)):
            expansions[name] = oracles.naive_taylor(f, params, new, degree, X)
    vp = np.einsum("nmoq,mq->no", ntk, f(params, X))
    return new, expansions | {"ntk": ntk, "nngp": nngp, "vp": vp}


# `AUTO`, and one of the others for each function. Without caches or `jit` all is slow.
QUICK = {
    "promotion": (short_and_long, normalised, convolved, scanned, with_rules),
    "looked_at": (normalised,),
    "no_jit": (with_rules,),
}
ROWS = [
    pytest.param(
        f,
        setting,
        1 + r % 3,
        id=f"{f.__name__}-{setting}",
        marks=() if f in QUICK[setting] else pytest.mark.full,
    )
    for r, f in enumerate(FUNCTIONS)
    for setting in SETTINGS
]


@pytest.mark.parametrize("f, setting, implementation", ROWS)
def test_what_works_works_under_every_setting(f, setting, implementation):
    new, answer = answers(f)
    with SETTINGS[setting]():
        whole = functools.partial(results, f, implementation=implementation)
        if f is short_and_long or setting != "promotion":
            found = whole(FUNCTIONS[f], new, blocks=f is short_and_long)
        else:  # types are decided when it is traced
            found = jax.jit(functools.partial(whole, blocks=False))(FUNCTIONS[f], new)
    tolerance = 1e-2 if f is short_and_long else 1e-10

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())

    for name, got in found.items():
        if name in ("both", "batch"):
            close(got.nngp, answer["nngp"])
            close(got.ntk, answer["ntk"])
        elif name.startswith(("ntk", "contract")):
            close(got, answer["ntk"])
        elif name in answer:
            close(got, answer[name])


def test_promotion_is_still_refused_in_f():
    """The settings are there for `f`."""
    w, x = uniform(0, 4, 2), uniform(1, 3, 4, dtype="float32")
    calls = (
        lambda f: nt.empirical_ntk_fn(f, vmap_axes=0)(x, None, w),
        lambda f: nt.empirical_nngp_fn(f)(x, None, w),
        lambda f: nt.linearize(f, w)(w, x),
        lambda f: nt.empirical_ntk_vp_fn(f, x, None, w),
        lambda f: nt.batch(nt.empirical_ntk_fn(f), 2)(x, None, w),
    )
    for call in calls:
        with jax.numpy_dtype_promotion("strict"), pytest.raises(Exception, match="promotion path"):
            call(lambda w, x: x @ w)
        with jax.numpy_rank_promotion("raise"), pytest.raises(ValueError, match="rank_promotion"):
            call(lambda w, x: x @ w.astype(x.dtype) + w[0].astype(x.dtype))


def test_a_nan_that_is_there_is_found():
    w, x = uniform(0, 4, 2), uniform(1, 3, 4)

    def f(w, x):
        return jnp.sqrt(x @ w - 100)

    with jax.debug_nans(True):
        with pytest.raises(FloatingPointError):
            nt.taylor_expand(f, w, 2)(w + 1, x)
        with pytest.raises(FloatingPointError):
            nt.empirical_ntk_fn(f, vmap_axes=0, check_vmap=False)(x, None, w)
