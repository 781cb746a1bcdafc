"""The check of a first call: every rule of the engine, broken on purpose, is caught."""

import dataclasses
import functools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support import oracles
from support.arrays import assert_equal, uniform
from support.options import half

import tangax as nt
from tangax._engine import evaluate, kinds, linearise, program
from tangax._engine.kinds import conv, dense, elementwise, embedding, generic, joined, normal_form
from tangax._jaxpr import moves
from tangax._methods import checking

# --- networks that use every rule -----------------------------------------------------------------


def mlp(p, x):
    h = jnp.tanh(x @ (0.5 * p["w"]).T + p["b"])
    return (h - p["c"]) * p["g"] @ p["v"] / p["d"] + p["s"] / (2 + x[:, :3] ** 2)


def convolution(p, x):
    dims = ("NWC", "WIO", "NWC")
    h = lax.conv_general_dilated(x[:, :, None], p["k"], (1,), "SAME", dimension_numbers=dims)
    return jnp.tanh(h).sum(1) + p["b"].sum()


def lookup(p, x):
    ids = jnp.floor(4 * jnp.abs(x)).astype(jnp.int32)
    tokens = p["t"][ids] * jnp.arange(1.0, 5.0)[:, None]
    return jnp.tanh(tokens.sum(1)) @ p["w"]


def loops(p, x):
    h = lax.scan(lambda h, w: (h + jnp.tanh(h @ w), None), x, p["layers"])[0]
    step = lambda h, _: (jnp.tanh(h @ p["u"]) + p["b"], None)  # noqa: E731
    h = lax.scan(step, h, None, length=3)[0]
    return h + lax.scan(lambda h, _: (jnp.sin(h), None), p["first"], None, length=2)[0]


def views(p, x):
    turned = x @ p["y"].T + jnp.tanh(x) @ p["y"][::-1] + x @ p["w"].T
    joined = x @ jnp.concatenate([p["a"], p["c"]], 1)
    both = jnp.tanh(x @ p["w"][:, 1:3]) @ p["w"][:2]
    flat = jnp.concatenate([p["a"].ravel(), p["c"].ravel()])
    kernels = jnp.concatenate([p["a"][None], p["a"][None]])
    conv = lax.conv_general_dilated(
        x[:, :, None], kernels[:, :1], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    spread = x @ jnp.broadcast_to(p["z"], (4, 4))
    one, _ = lax.optimization_barrier((p["a"], p["c"]))
    return [turned + both, joined * flat[4:8], conv.sum(1), spread, x @ one]


def complex_data(p, x):
    return jnp.abs(jnp.exp(1j * x) @ p["w"] + 0.3), jnp.abs(jnp.exp(1j * x) * p["g"] + 1)


def unknown(p, x):
    return x @ jnp.sin(p["w"]) + jnp.cumsum(p["b"]) + lax.max(p["b"], 0.1)


SHAPES = {
    mlp: {"w": (5, 4), "b": (5,), "c": (5,), "g": (5,), "v": (5, 3), "d": (3,), "s": (3,)},
    convolution: {"k": (3, 1, 4), "b": (2,)},
    lookup: {"t": (5, 3), "w": (3, 2)},
    loops: {"layers": (3, 4, 4), "u": (4, 4), "b": (4,), "first": (4,)},
    views: {"w": (4, 4), "y": (4, 4), "a": (4, 2), "c": (4, 2), "z": (4,)},
    complex_data: {"w": (4, 3), "g": (4,)},
    unknown: {"w": (4, 3), "b": (3,)},
}
X = uniform(99, 5, 4)


def params_of(f):
    return {name: uniform(a, *shape) for a, (name, shape) in enumerate(SHAPES[f].items())}


# --- mistakes -------------------------------------------------------------------------------------


def after(change):
    """A function whose result is changed."""
    return lambda function: lambda *args, **kwargs: change(function(*args, **kwargs))


def with_G(change):
    return after(lambda f: normal_form.with_cotangent(f, change(normal_form.cotangent(f))))


def with_A(change):
    return after(lambda f: dataclasses.replace(f, A=change(f.A)))


def layout(change):
    def changed(found):
        to_leaf = lambda M: change(found.to_leaf(M))  # noqa: E731
        return normal_form.Layout(found.key, to_leaf, found.bounds)

    return after(changed)


def turned(J):
    """The entries of a parameter in another order."""
    return jnp.roll(J.reshape(J.shape[0], -1), 1, 1).reshape(J.shape)


def always(value):
    return lambda function: lambda *args, **kwargs: value


MISTAKES = {
    "dense: other operand scaled": (mlp, dense.Dense, "record", after(lambda a: 1.01 * a)),
    "dense: sign": (mlp, dense.Dense, "factor", with_G(jnp.negative)),
    "dense: units turned": (mlp, dense.Dense, "factor", with_G(lambda G: jnp.roll(G, 1, -1))),
    "dense: inputs turned": (mlp, dense.Dense, "factor", with_A(lambda A: jnp.roll(A, 1, -1))),
    "dense: layout": (mlp, dense.Dense, "layout", layout(turned)),
    "bias: sign": (mlp, elementwise.Bias, "factor", with_G(jnp.negative)),
    "bias: half": (mlp, elementwise.Bias, "factor", with_G(lambda G: 0.5 * G)),
    "scale: other operand": (mlp, elementwise.Scale, "record", after(lambda a: a + 0.1)),
    "scale: not summed": (mlp, elementwise, "to_shape", after(turned)),
    "scale: product for quotient": (
        mlp,
        elementwise.Scale,
        "factor",
        lambda factor: lambda k, *given: factor(dataclasses.replace(k, divides=False), *given),
    ),
    "view: scale forgotten": (mlp, evaluate, "scaled", lambda _: lambda factor, scale: factor),
    "view: not pulled back": (mlp, normal_form.View, "pull", after(turned)),
    "conv: patches": (convolution, conv.Convolution, "patches", after(lambda a: a[:, ::-1])),
    "conv: window turned": (convolution, conv.Convolution, "layout", layout(turned)),
    "conv: positions": (
        convolution, conv.Convolution, "factor", with_G(lambda G: jnp.roll(G, 1, 1))
    ),
    "conv: input": (convolution, conv.Convolution, "record", after(lambda a: a[:, ::-1])),
    "embedding: another row": (lookup, embedding, "in_range", after(lambda i: (i + 1) % 5)),
    "embedding: tokens": (
        lookup, embedding.Embedding, "factor", with_G(lambda G: jnp.roll(G, 1, 1))
    ),
    "embedding: layout": (lookup, embedding.Embedding, "layout", layout(turned)),
    "loop: last step lost": (
        loops, evaluate, "over_time", lambda over: lambda s: over(jax.tree.map(lambda a: a[:-1], s))
    ),
    "loop: layers reversed": (
        loops, evaluate, "over_layers",
        lambda over: lambda s: over(jax.tree.map(lambda a: a[::-1], s)),
    ),
    "loop: carry": (loops, generic.Whole, "factor", with_G(jnp.negative)),
    "loop: entered twice": (
        loops, evaluate, "_entered_factors", after(lambda found: 2 * list(found))
    ),
    "sites: cross term lost": (views, evaluate, "grouped", lambda group: lambda fs: group(fs[:1])),
    "sites: thought disjoint": (views, normal_form, "disjoint", always(True)),
    "sites: thought alike": (
        views, moves, "signature", always(())
    ),
    "view: thought in order": (
        views,
        moves,
        "is_reshape",
        lambda is_reshape: lambda eqn: eqn.primitive.name == "transpose" or is_reshape(eqn),
    ),
    "view: thought one to one": (
        views,
        moves,
        "is_layout",
        lambda is_layout: lambda e: e.primitive.name == "broadcast_in_dim" or is_layout(e),
    ),
    "view: another operand": (
        views, program, "_same", lambda same: lambda e, f, r: same(e, f, 1 - r)
    ),
    "part: another place": (views, joined, "cut", lambda cut: lambda J, a, p: turned(cut(J, a, p))),
    "joined: another place": (
        views, dense, "cut", lambda cut: lambda x, a, p: jnp.flip(cut(x, a, p), a[-1] if a else 0)
    ),
    "complex: sign": (complex_data, jnp, "imag", after(jnp.negative)),
    "complex: imaginary part lost": (
        complex_data,
        evaluate,
        "real",
        lambda _: lambda f: jax.tree.map(jnp.real, f),
    ),
    "generic: taken for a bias": (
        unknown, program, "kind_of",
        lambda _: lambda eqn, a: elementwise.Bias(1, (4, 3)[a:] or (3,)),
    ),
    "generic: zeros not added": (unknown, evaluate, "_enter", lambda _: lambda s, v, *_: (list(v), [
        [(None, None) for _ in site.uses] for _, site in s.entered])),
    "examples exchanged": (
        mlp, linearise.Passes, "of_cotangents",
        after(lambda leaves: jax.tree.map(lambda a: jnp.roll(a, 1, 0), leaves)),
    ),
    "leaves exchanged": (
        views, evaluate, "_collect",
        after(lambda found: [(1 - i if i < 2 else i, f) for i, f in found]),
    ),
}  # fmt: skip


@functools.cache
def expected(f):
    return oracles.naive_ntk(f, params_of(f), X)


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_caught(name, monkeypatch):
    f, owner, attribute, wrong = MISTAKES[name]
    monkeypatch.setattr(owner, attribute, wrong(getattr(owner, attribute)))
    if name == "complex: sign":  # of the engine's, not of f's
        monkeypatch.undo()
        fake = type("jnp", (), {"__getattr__": lambda _, key: getattr(jnp, key)})()
        fake.imag = lambda a: -jnp.imag(a) if a.ndim == 3 else jnp.imag(a)
        monkeypatch.setattr(normal_form, "jnp", fake)
    ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0)
    with pytest.warns(UserWarning, match=r"The factors of params\['\w+'\], which enters at .*:\d+"):
        assert max(ntk_fn.check(X, params_of(f)).values()) > 1


@half(f=SHAPES, vmap_axes=(0, None))
def test_what_is_right_is_checked_in_silence(f, vmap_axes):
    params = params_of(f)
    ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=vmap_axes)
    assert "not yet checked" in str(ntk_fn.explain(X, None, params))
    kernel = ntk_fn(X, None, params)
    assert_equal(kernel, expected(f))
    count = len(params)
    assert f"checked with jax.vjp at these shapes: all {count} leaves" in str(
        ntk_fn.explain(X, None, params)
    )
    found = ntk_fn.check(X, params)
    assert len(found) == count and max(found.values()) < 1e-3


# --- what follows ---------------------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch):
    record = dense.Dense.record
    monkeypatch.setattr(dense.Dense, "record", lambda self, values: 1.01 * record(self, values))


def test_a_leaf_is_warned_of_once_and_whole_from_then_on(broken):
    params = params_of(mlp)
    ntk_fn = nt.empirical_ntk_fn(mlp, (), vmap_axes=0)
    with pytest.warns(UserWarning) as said:
        first = ntk_fn(X, None, params)
    leaves = [str(w.message).split(",")[0] for w in said]
    assert leaves == ["The factors of params['v']", "The factors of params['w']"]
    assert all(w.filename == __file__ for w in said)
    expected = oracles.naive_ntk(mlp, params, X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(ntk_fn(X[:3], None, params), expected[:3, :3])
        assert_equal(jax.jit(ntk_fn)(X, None, params), expected)
        assert_equal(ntk_fn.contract(ntk_fn.factors(X, params)), expected)
    assert_equal(first, expected)
    plan = ntk_fn.explain(X, None, params)
    assert {row.leaf: row.factors for row in plan.rows if "'w'" in row.leaf}[
        "params['w']"
    ] == "J[3, 20]"
    assert "whole Jacobians of params['v'], params['w'], which differed" in str(plan)


@half(memory=(1, None), vmap_axes=(0, None))
def test_whole_leaves_in_blocks(broken, memory, vmap_axes):
    params = params_of(mlp)
    ntk_fn = nt.empirical_ntk_fn(mlp, (), vmap_axes=vmap_axes, memory=memory)
    with pytest.warns(UserWarning):
        kernel = ntk_fn(X[:3], X[2:], params)
    assert_equal(kernel, oracles.naive_ntk(mlp, params, X[:3], X[2:]))


def test_check_by_hand_before_jit(broken):
    params = params_of(mlp)
    ntk_fn = nt.empirical_ntk_fn(mlp, (), vmap_axes=0)
    with pytest.warns(UserWarning):
        found = ntk_fn.check(X, params)
    assert {leaf for leaf, number in found.items() if number > 1} == {
        "params['v']",
        "params['w']",
    }
    kernel = jax.jit(ntk_fn)(X, None, params)
    assert_equal(kernel, oracles.naive_ntk(mlp, params, X))
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(ntk_fn.check)(X, params)


def test_check_vmap_false_checks_nothing(broken):
    params = params_of(mlp)
    kernel = nt.empirical_ntk_fn(mlp, (), vmap_axes=0, check_vmap=False)(X, None, params)
    assert np.abs(kernel - oracles.naive_ntk(mlp, params, X)).max() > 1e-3


def test_a_head_of_zeros_hides_nothing(broken):
    params = params_of(mlp) | {"v": jnp.zeros((5, 3)), "s": jnp.zeros(3)}
    ntk_fn = nt.empirical_ntk_fn(mlp, (), vmap_axes=0)
    with pytest.warns(UserWarning):
        assert ntk_fn.check(X, params)["params['w']"] > 1


def test_mixed_examples_are_refused_by_the_same_check():
    ntk_fn = nt.empirical_ntk_fn(lambda w, x: (x - x.mean(0)) @ w, vmap_axes=0)
    with pytest.raises(ValueError, match="f mixes examples"):
        ntk_fn.check(X, uniform(1, 4, 2))


def test_rounding_is_no_difference():
    """Sixteen bits, kinks that rounding decides, and gradients that are zero but for rounding."""

    def f(p, x):
        h = jax.nn.relu(x @ p["w"] + p["b"])
        h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
        return jax.nn.softmax(h @ p["v"] + p["c"])

    shapes = {"w": (4, 64), "b": (64,), "v": (64, 3), "c": ()}
    for dtype in ("bfloat16", "float16", "float32"):
        params = {k: uniform(a, *s).astype(dtype) for a, (k, s) in enumerate(shapes.items())}
        found = nt.empirical_ntk_fn(f, vmap_axes=0).check(X.astype(dtype), params)
        assert len(found) == 4 and max(found.values()) < 1


def test_without_reverse_mode_there_is_nothing_to_check():
    def f(w, x):
        grow = lambda h: h * (1 + w)  # noqa: E731
        return jax.vmap(lambda h: lax.while_loop(lambda h: (h < 1).all(), grow, h))(jnp.abs(x))

    w = jnp.abs(uniform(0, 4))
    assert nt.empirical_ntk_fn(f, vmap_axes=0).check(X[:, :4], w) == {}


def test_factors_module_names_its_parts():
    assert kinds.GENERIC.name == "generic" and kinds.RETURNED.name == "returned"


@pytest.mark.parametrize("memory", ["1GiB", "400MiB"])
def test_batch_checks_once_and_takes_whole_jacobians(broken, memory):
    params = params_of(mlp)
    kernel_fn = nt.batch(nt.empirical_ntk_fn(mlp, (), vmap_axes=0), 2, memory=memory)
    with pytest.warns(UserWarning) as said:
        kernel = kernel_fn(X, None, params)
    assert len(said) == 2
    assert_equal(kernel, expected(mlp))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(kernel_fn(X, None, params), expected(mlp))


@pytest.mark.parametrize("make", [lambda fn: fn, lambda fn: nt.batch(fn, 2)])
def test_programs_that_are_compiled_already_hear_of_it(broken, make):
    params = params_of(mlp)
    ntk_fn = nt.empirical_ntk_fn(mlp, (), vmap_axes=0, check_vmap=False)
    called = make(ntk_fn)
    assert np.abs(called(X, None, params) - expected(mlp)).max() > 1e-3
    with pytest.warns(UserWarning):
        ntk_fn.check(X, params)
    assert_equal(called(X, None, params), expected(mlp))


@jax.custom_jvp
def together(a, b):
    return a * b


@functools.partial(together.defjvp, symbolic_zeros=True)
def of_both(primals, tangents):
    """The derivative, where both operands move; else it is said to be zero."""
    moving = not any(isinstance(t, jax.custom_derivatives.SymbolicZero) for t in tangents)
    (a, b), y = primals, primals[0] * primals[1]
    return y, tangents[0] * b + a * tangents[1] if moving else 0 * y


def test_whole_jacobians_perturb_every_leaf():
    def f(p, x):
        return x @ together(jnp.sin(p["a"]), jnp.cos(p["b"]))

    params, x = {"a": uniform(1, 4, 3), "b": uniform(2, 4, 3)}, X[:, :4]
    ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0)
    ntk_fn.method.remembered.distrusted.add("params['a']")
    J = [j.reshape(5, 3, -1) for j in jax.jacrev(f)(params, x).values()]
    kernel = sum(np.einsum("nop,mqp->nmoq", j, j) for j in J)
    assert kernel.max() > 0.1
    assert_equal(ntk_fn(x, None, params), kernel)


def test_a_number_among_parameters_takes_the_dtype_of_what_it_meets(broken):
    def f(p, x):
        h = x.astype("bfloat16") @ p["w"] * p["s"]
        return lax.scan(lambda h, _: (jnp.tanh(h) * p["s"], None), h, None, length=2)[0]

    params = {"w": uniform(1, 4, 3, dtype="bfloat16"), "s": 0.5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sixteen bits see no difference of a hundredth
        for vmap_axes in (0, None):
            ntk_fn = nt.empirical_ntk_fn(f, vmap_axes=vmap_axes)
            kernel = ntk_fn(X[:, :4], None, params)
            ntk_fn.method.remembered.distrusted.update(["params['s']", "params['w']"])
            np.testing.assert_allclose(ntk_fn(X[:, :4], None, params), kernel, rtol=0.05, atol=0.05)


def test_short_data_and_large_outputs_hide_nothing(monkeypatch):
    """Data of eight bits are what they are; an output is compared by its own measure."""
    record = dense.Dense.record

    def wrong(self, values):
        found = record(self, values)
        return 1.3 * found if found.shape[-1] == 3 else found

    monkeypatch.setattr(dense.Dense, "record", wrong)

    def short(p, x):
        return jnp.tanh(x.astype(jnp.float8_e4m3fn).astype("float32")[:, :3] @ p)

    def outputs(p, x):
        return {"large": x @ jnp.concatenate([p, jnp.sin(p[:1])]), "small": 1e-6 * (x[:, :3] @ p)}

    for f in (short, outputs):
        with pytest.warns(UserWarning, match="The factors of params"):
            nt.empirical_ntk_fn(f, vmap_axes=0).check(X[:, :4], uniform(1, 3, 2, dtype="float32"))


CANCELLED = {
    "shift": lambda p, x: standardised(1e-2 * (x @ p["w"]) + p["s"]),
    "moments": lambda p, x: jnp.square(x + p["s"]).mean(1) - jnp.square((x + p["s"]).mean(1)),
    "ill-conditioned": lambda p, x: (
        jnp.linalg.solve(p["w"] @ p["w"].T + 1e-5 * jnp.eye(16), jnp.tile(x, 4).T).T
    ),
    "instances": lambda p, x: standardised(1e-4 * jnp.sin(9 * x @ p["w"].T) + p["s"]),
}


def standardised(h):
    return (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-6)


@half(name=CANCELLED, vmap_axes=(0, None))
def test_a_derivative_that_is_rounding_is_no_difference(name, vmap_axes):
    for seed in range(2):
        params = {"w": uniform(seed, 16, 4, dtype="float32"), "s": jnp.float32(1)}
        if name == "shift":
            params["w"] = params["w"].T
        ntk_fn = nt.empirical_ntk_fn(CANCELLED[name], vmap_axes=vmap_axes)
        found = ntk_fn.check(X[:, :4].astype("float32"), params)
        assert not any(number > 1 for number in found.values())


def test_examples_mixed_in_the_derivative_are_taken_apart():
    """As the kernel takes them."""

    @jax.custom_vjp
    def same(y):
        return y

    same.defvjp(lambda y: (y, None), lambda _, t: (t / jnp.linalg.norm(t),))
    params = {"a": uniform(1, 4, 3), "b": uniform(2, 3, 2)}
    found = nt.empirical_ntk_fn(lambda p, x: same(x @ p["a"]) @ p["b"], vmap_axes=0).check(
        X[:, :4], params
    )
    assert max(found.values()) < 1e-3


@pytest.mark.parametrize("vmap_axes", [0, None])
def test_parameters_that_f_refuses_are_not_asked(vmap_axes):
    """A tenth of the larger one moves the smaller one out of the domain."""
    params = jnp.array([100, 1e-3, 1e-4, 1e-5])

    def logarithm(p, x):
        return jnp.log(p) * x

    def positive(p, x):
        return x * jnp.sqrt(eqx.error_if(p, (p <= 0).any(), "must be positive"))

    with jax.debug_nans(True):
        found = nt.empirical_ntk_fn(logarithm, vmap_axes=vmap_axes).check(X[:, :4], params)
    assert found["params"] < 1e-3
    found = nt.empirical_ntk_fn(positive, vmap_axes=vmap_axes).check(X[:, :4], params)
    assert found["params"] < 1e-3


def test_parameters_that_f_refuses_hide_no_difference(broken):
    def f(p, x):
        return x @ p["w"] * jnp.sqrt(eqx.error_if(p["s"], (p["s"] <= 0).any(), "must be positive"))

    params = {"w": uniform(0, 4, 3), "s": jnp.array([100, 1e-3, 1e-4])}
    ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0)
    with pytest.warns(UserWarning, match=r"The factors of params\['w'\]"):
        kernel = ntk_fn(X[:, :4], None, params)
    plain = nt.empirical_ntk_fn(f, (), vmap_axes=0, implementation=1)(X[:, :4], None, params)
    assert_equal(kernel, np.asarray(plain))


def test_what_is_not_finite_is_not_taken_for_right(monkeypatch):
    record = dense.Dense.record
    monkeypatch.setattr(dense.Dense, "record", lambda self, values: jnp.nan * record(self, values))
    with pytest.warns(UserWarning, match="The factors of params"):
        nt.empirical_ntk_fn(mlp, vmap_axes=0).check(X, params_of(mlp))
    found = nt.empirical_ntk_fn(lambda w, x: jnp.sqrt(x @ w - 100), vmap_axes=0).check(
        X[:, :4], uniform(0, 4, 2)
    )
    assert np.isnan(found["params"])


def test_noise_is_not_called_a_mixture():
    shape = jax.ShapeDtypeStruct((), float)
    draw = np.random.default_rng(0).standard_normal

    def noisy(w, x):
        return x @ w + jax.pure_callback(lambda _: draw(), shape, x[0, 0])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nt.empirical_ntk_fn(noisy)(X[:, :4], None, uniform(0, 4, 2))


def test_the_check_is_made_once_where_values_cannot_be_hashed(monkeypatch):
    @dataclasses.dataclass
    class Scale:
        value: float

    calls = []
    found = checking._differences
    monkeypatch.setattr(checking, "_differences", lambda *args: calls.append(args) or found(*args))
    ntk_fn = nt.empirical_ntk_fn(lambda w, x, s: s.value * (x @ w), vmap_axes=0)
    for _ in range(3):
        ntk_fn(X[:, :4], None, uniform(0, 4, 2), s=Scale(2.0))
    assert len(calls) == 1


def test_what_vmap_refuses_is_checked_in_turn(broken):
    """By one lookup of groups that says how many rows there are."""

    def f(p, x):
        return jnp.tanh(lax.ragged_dot(x, p, jnp.array([x.shape[0], 0])))

    params, x = uniform(1, 2, 4, 5), X[:, :4]
    found = nt.empirical_ntk_fn(f, (), vmap_axes=0).check(x, params)
    assert all(number < 1 for number in found.values())
    expected = oracles.naive_ntk(lambda p, x: jnp.tanh(x @ p[0]), params, x)
    assert_equal(nt.empirical_ntk_fn(f, (), vmap_axes=0)(x, None, params), expected)


@half(place=("w", "v", "x"), activation=(jnp.asarray, jax.nn.relu, jnp.tanh))
def test_infinities_are_no_difference(place, activation):
    """Nor are lengths whose squares overflow."""
    params, x = {"w": uniform(1, 6, 5), "v": uniform(2, 5, 3)}, uniform(3, 4, 6)
    for value in (jnp.inf, 1e200):
        if place == "x":
            x = x.at[1, 0].set(value)
        else:
            params[place] = params[place].at[0, 0].set(value)
        ntk_fn = nt.empirical_ntk_fn(lambda p, x: activation(x @ p["w"]) @ p["v"], vmap_axes=0)
        found = ntk_fn.check(x, params)
        assert not any(number > 1 for number in found.values())


def test_outputs_that_are_rounding_are_not_mixed():
    def f(w, x):
        h = jnp.ones((x.shape[0], 5), x.dtype) * 1.3 * w[0, 0] + 0 * x[:, :1]
        return (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-12) @ w

    for seed in (4, 5, 8):  # of 12 these were said to mix examples on JAX 0.12
        w = np.random.default_rng(seed).standard_normal((5, 3)).astype("float32")
        nt.empirical_ntk_fn(f, vmap_axes=0).check(X[:, :4].astype("float32"), w)


def test_an_output_of_fixed_length_is_said():
    msg = r"axis 0 of shape \(5, 2\), but f was given 1 of the 5 examples of x1"
    with pytest.raises(ValueError, match=msg):
        nt.empirical_ntk_fn(lambda w, x: w[0] * jnp.ones((5, 2)), vmap_axes=0).check(X[:5], X[0])
    msg = r"has shape \(2, 2\) for two examples, where \(2, 5\) was expected.*mixes examples"
    with pytest.raises(ValueError, match=msg):
        nt.empirical_ntk_fn(lambda w, x: w[0] * x @ x.T, vmap_axes=0).check(X[:5], X[0])


def test_explain_knows_of_what_factors_checked():
    params, x = params_of(mlp), X
    ntk_fn = nt.empirical_ntk_fn(mlp, vmap_axes=0)
    assert ntk_fn.explain(x, None, params).checked is None
    ntk_fn.factors(x, params)
    assert len(ntk_fn.explain(x, None, params).checked) == len(params)


def test_factors_take_a_pair_as_it_is_and_a_kernel_for_both_sides(monkeypatch):
    """So what was checked of the one is not known of the other."""

    def f(w, x, pair):
        return jnp.tanh(x @ w) * (pair if not isinstance(pair, tuple | list) else pair[0] * pair[1])

    w, x, pair = uniform(0, 4, 2), X, (jnp.asarray(0.5), jnp.asarray(2.0))
    checked, check = [], checking._differences
    monkeypatch.setattr(checking, "_differences", lambda *args: checked.append(1) or check(*args))
    ntk_fn = nt.empirical_ntk_fn(f, vmap_axes=0)
    ntk_fn.factors(x, w, pair=list(pair))
    ntk_fn.factors(x, w, pair=pair)
    assert len(checked) == 2
    with pytest.warns(UserWarning, match="pair is a tuple of two"):
        ntk_fn(x, None, w, pair=pair)
    assert len(checked) == 4
