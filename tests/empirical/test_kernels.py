"""Kernels equal their definitions: every case, implementation and choice of axes.

By default each case of the core is compiled once, with two of the factored kernels (`AUTO` and
`STRUCTURED_DERIVATIVES`, one of them with `x2`), the NNGP and for some the product with a vector;
every fourth has one of the plain implementations too, which know no kinds of sites. Choices of axes
are dealt out so that the table as a whole meets every combination. `--full` runs the whole product.
"""

import collections
import dataclasses
import functools
import itertools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import cases, oracles
from support.arrays import assert_equal, has_parameters, mlp, mlp_params, uniform
from support.expected import full_nngp, full_ntk
from support.options import half

import tangax as nt

IMPLEMENTATIONS = (nt.NtkImplementation.AUTO, 1, 2, 3)
CHOICES = ("trace_last", "full", "diagonal_first", "diagonal_last", "trace_all", "mixed")
ONE_LENGTH = ("diagonal_first", "trace_all", "mixed")  # twins of the batch axis


# --- the product of cases and options -------------------------------------------------------------


class Call(NamedTuple):
    """One NTK of a case."""

    implementation: int
    given: bool  # whether there is an `x2`
    choice: str  # of axes
    vmap_axes: int | None


class Asked(NamedTuple):
    """What one test computes of a case, in one compilation."""

    name: str
    calls: tuple[Call, ...]
    given: bool  # of the NNGP and of the product with a vector
    choice: str  # of axes, of the NNGP
    product: bool  # whether the product with a vector is computed
    jit: bool


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "asked" in metafunc.fixturenames:
        rows = everything() if metafunc.config.getoption("full") else dealt()
        metafunc.parametrize("asked", [pytest.param(row, id=row_id(row)) for row in rows])


def row_id(asked):
    implementations = dict.fromkeys(str(int(call.implementation)) for call in asked.calls)
    return f"{asked.name}-{'+'.join(implementations)}"


def everything():
    """The whole product: a test for each case and implementation."""
    for i, name in enumerate(cases.NAMES):
        case = cases.get(name)
        for k, implementation in enumerate(IMPLEMENTATIONS):
            calls = [
                Call(implementation, given, *variant)
                for given in (True, False)
                for variant in variants(case, given)
            ]
            choice = CHOICES[(i + k) % len(CHOICES)]
            given = k % 2 == 0
            fits = fitting_axes(case, choice, given) is not None
            yield Asked(
                name,
                tuple(calls),
                given,
                choice if fits else "full",
                product=k < 2,
                jit=(i + k) % 8 > 0,  # out of it is slow
            )


@functools.cache
def dealt():
    """A test for each case of the core, whose calls have the choices that came least before."""
    counts = collections.Counter()
    return [dealt_to(i, cases.get(name), counts) for i, name in enumerate(cases.CORE)]


def dealt_to(i, case, counts):
    """A test for the `i`-th case of the core; `counts` says how often each choice came before."""

    def deal(implementation, given, vmap_axes):
        fitting = [v for v in variants(case, given) if v[1] in vmap_axes]
        marks = {v: (("of", implementation, *v), ("x2", given, *v)) for v in fitting}
        variant = min(fitting, key=lambda v: [counts[mark] for mark in marks[v]])
        counts.update(marks[variant])
        return Call(implementation, given, *variant)

    factored = IMPLEMENTATIONS[::3] if i % 2 else IMPLEMENTATIONS[::-3]
    batch = (None,) if i % 4 == 2 or not case.batched else (0,)  # the same, to compile it once
    calls = [deal(factored[0], True, batch), deal(factored[1], False, batch)]
    if i % 4 == 0:
        calls.append(deal(IMPLEMENTATIONS[1 + i // 4 % 2], i // 8 % 2 == 0, (None, 0)))
    given = (i + i // 4) % 2 == 0
    choice = min((v[0] for v in variants(case, given)), key=lambda c: counts["nngp", given, c])
    counts["nngp", given, choice] += 1
    return Asked(
        case.name,
        tuple(calls),
        given,
        choice,
        product=i % 4 == 1,
        jit=i % 24 != 5,
    )


def inputs(case, given, choice):
    """`x1, x2`; with a batch axis of one length where twins must be of one size."""
    if not given:
        return case.x1, None
    if not case.batched or choice not in ONE_LENGTH:
        return case.x1, case.x2
    n = min(len(leaf) for leaf in jax.tree.leaves((case.x1, case.x2)))
    return jax.tree.map(lambda a: a[:n], (case.x1, case.x2))


def axes(case, choice, given):
    """`trace_axes, diagonal_axes` of a choice that fits."""
    found = fitting_axes(case, choice, given)
    assert found is not None
    return found


@functools.cache
def output_shapes(name, given, choice):
    """The outputs' shapes for `x1` and for `x2`."""
    case = cases.get(name)
    x1, x2 = inputs(case, given, choice)
    first = jax.eval_shape(lambda: case.f(case.params, x1, **case.kwargs))
    second = first
    if x2 is not None:
        second = jax.eval_shape(lambda: case.f(case.params, x2, **case.kwargs))
    return jax.tree.leaves(first), jax.tree.leaves(second)


def fitting_axes(case, choice, given):
    """`trace_axes, diagonal_axes` of a choice, or `None` where the outputs do not allow it."""
    outputs = output_shapes(case.name, given, "mixed" if choice in ONE_LENGTH else "full")
    rank = min(y.ndim for y in outputs[0])
    trace, diagonal = {
        "trace_last": ((-1,), ()),
        "full": ((), ()),
        "diagonal_first": ((), (0,)),
        "diagonal_last": ((), (-1,)),
        "trace_all": (tuple(range(rank)), ()),
        "mixed": ((-1,), (0,)),
    }[choice]
    if (rank == 0 and choice != "full") or (rank < 2 and choice == "mixed"):
        return None
    for y1, y2 in zip(*outputs, strict=True):
        if any(y1.shape[a] != y2.shape[a] for a in trace + diagonal):
            return None
    return trace, diagonal


@functools.cache
def variants(case, given):
    """Every `(choice, vmap_axes)` that fits."""
    fitting = [c for c in CHOICES if fitting_axes(case, c, given) is not None]
    return list(itertools.product(fitting, (None, 0) if case.batched else (None,)))


def expected_kernel(full, name, given, choice):
    """The oracle's kernel for a choice of axes, of its `full` one."""
    case = cases.get(name)
    x1, x2 = inputs(case, given, choice)
    kernel = full(name, given)
    if x2 is not None and case.batched:
        n, m = (len(jax.tree.leaves(x)[0]) for x in (x1, x2))
        kernel = jax.tree.map(lambda k: k[:n, :m], kernel)
    chosen = axes(case, choice, given)
    return jax.tree.map(lambda k: oracles.apply_axes(k, *chosen), kernel)


# What JAX raises for functions that have no reverse mode: loops, and solvers.
JAX_REFUSES, NO_REVERSE_MODE = (TypeError, ValueError), "everse-mode|backwards mode"


def evaluate(kernel_fn, case, x1, x2, jit):
    """The kernel; out of `jit`, where the check of `vmap_axes` is made, for a compiled `f`."""
    if not jit:
        f = jax.jit(functools.partial(kernel_fn.f, **case.kwargs))
        return dataclasses.replace(kernel_fn, f=f)(x1, x2, case.params)

    @jax.jit
    def call(x1, x2, params):
        return kernel_fn(x1, x2, params, **case.kwargs)

    return call(x1, x2, case.params)


def transposed(kernel, trace, diagonal):
    """The kernel with `x1` and `x2` exchanged."""
    rank = (kernel.ndim + len(diagonal)) // 2 + len(trace)
    trace, diagonal = ([a % rank for a in axes] for axes in (trace, diagonal))
    order = []
    for axis in range(rank):
        at = len(order)
        order += [] if axis in trace else [at] if axis in diagonal else [at + 1, at]
    return np.transpose(kernel, order)


def assert_symmetric(kernel, trace, diagonal):
    """To the last bit."""
    for k in map(np.asarray, jax.tree.leaves(kernel)):
        np.testing.assert_array_equal(k, transposed(k, trace, diagonal))


def ntk_of(case, call):
    trace, diagonal = axes(case, call.choice, call.given)
    return nt.empirical_ntk_fn(case.f, trace, diagonal, call.vmap_axes, call.implementation)


def refused(case, call):
    """What is raised, where the function has one direction of differentiation only."""
    if call.implementation != 2 or (case.forward and case.reverse):
        return None
    return (JAX_REFUSES, NO_REVERSE_MODE) if case.forward else (ValueError, "AUTO")


def compute(case, asked, calls, v):
    """The NTKs of the calls, the NNGP and, where `v` is one, the product with it."""

    def ntks(whole, calls):
        """Of `case`, with the inputs of `whole`."""
        return [
            ntk_of(case, call)(*inputs(whole, call.given, call.choice), whole.params, **case.kwargs)
            for call in calls
        ]

    @jax.jit
    def compiled(params, x1, x2, v):
        whole = dataclasses.replace(case, params=params, x1=x1, x2=x2)
        nngp_fn = nt.empirical_nngp_fn(case.f, *axes(case, asked.choice, asked.given))
        nngp = nngp_fn(*inputs(whole, asked.given, asked.choice), params, **case.kwargs)
        product = None
        if v is not None:
            second = x2 if asked.given else None
            product = nt.empirical_ntk_vp_fn(case.f, x1, second, params, **case.kwargs)(v)
        return ntks(whole, calls if asked.jit else ()), nngp, product

    found, nngp, product = compiled(case.params, case.x1, case.x2, v)
    if not asked.jit:  # with the check of `vmap_axes`, for a compiled `f`
        f = jax.jit(functools.partial(case.f, **case.kwargs))
        found = [
            dataclasses.replace(ntk_of(case, call), f=f)(
                *inputs(case, call.given, call.choice), case.params
            )
            for call in calls
        ]
    return found, nngp, product


def test_kernels_are_their_definitions(asked):
    case = cases.get(asked.name)
    if not has_parameters(case):
        with pytest.raises(TypeError, match="floating-point"):
            nt.empirical_ntk_fn(case.f)(case.x1, None, case.params, **case.kwargs)
        return
    refusals = {call: refused(case, call) for call in asked.calls}
    calls = [call for call, why in refusals.items() if why is None]
    v = vector(case, asked.given) if asked.product and case.reverse else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "trace_axes sums over")
        for call, why in refusals.items():
            if why is not None:
                with pytest.raises(why[0], match=why[1]):
                    compute(case, asked, [call], None)
        if asked.product and not case.reverse:
            with pytest.raises(JAX_REFUSES, match=NO_REVERSE_MODE):
                compute(case, asked, (), vector(case, asked.given))
        ntks, nngp, product = compute(case, asked, calls, v)
    for call, ntk in zip(calls, ntks, strict=True):
        assert_equal(ntk, expected_kernel(full_ntk, case.name, call.given, call.choice))
        if not call.given:
            assert_symmetric(ntk, *axes(case, call.choice, call.given))
    assert_equal(nngp, expected_kernel(full_nngp, case.name, asked.given, asked.choice))
    if not asked.given:
        assert_symmetric(nngp, *axes(case, asked.choice, asked.given))
    if v is not None:
        check_product(case, asked.given, v, product)


def vector(case, given):
    """Numbers like the outputs of `x2`."""
    x2 = case.x2 if given else case.x1
    outputs = jax.eval_shape(lambda: case.f(case.params, x2, **case.kwargs))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda y: jnp.asarray(rng.normal(size=y.shape)), outputs)


def check_product(case, given, v, product):
    if len(jax.tree.leaves(v)) == 1:
        (kernel,) = jax.tree.leaves(full_ntk(case.name, given))
        (only,) = jax.tree.leaves(v)
        rank = only.ndim
        kernel = kernel.transpose([*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)])
        expected = np.tensordot(kernel, only, rank).ravel()
    else:

        def flat(params, x, **kwargs):
            """All outputs in one: its kernel has the cross terms between outputs."""
            outputs = case.f(params, x, **kwargs)
            return jnp.concatenate([y.ravel() for y in jax.tree.leaves(outputs)])

        x2 = case.x2 if given else None
        kernel = oracles.naive_ntk(flat, case.params, case.x1, x2, kwargs1=case.kwargs)
        expected = kernel @ np.concatenate([y.ravel() for y in jax.tree.leaves(v)])
    outputs = jax.eval_shape(lambda: case.f(case.params, case.x1, **case.kwargs))
    assert jax.tree.structure(product) == jax.tree.structure(v) == jax.tree.structure(outputs)
    assert jax.tree.map(jnp.shape, product) == jax.tree.map(lambda y: y.shape, outputs)
    assert_equal(np.concatenate([np.ravel(y) for y in jax.tree.leaves(product)]), expected)


def test_the_default_run_covers_every_combination():
    """Every implementation, and `x2` with and without, meets every choice of axes and vmap_axes."""
    calls = [call for asked in dealt() for call in asked.calls]
    met = {(call.implementation, call.choice, call.vmap_axes) for call in calls}
    met_given = {(call.given, call.choice, call.vmap_axes) for call in calls}
    assert met == set(itertools.product(IMPLEMENTATIONS, CHOICES, (None, 0)))
    assert met_given == set(itertools.product((True, False), CHOICES, (None, 0)))
    nngps = {(asked.given, asked.choice) for asked in dealt()}
    assert nngps == set(itertools.product((True, False), CHOICES))
    assert {asked.given for asked in dealt() if asked.product} == {True, False}
    # Every kind with `x2` and without, by each of the factored ways.
    for asked in dealt():
        assert {call.given for call in asked.calls} == {True, False}
        assert {0, 3} <= {call.implementation for call in asked.calls}


# --- properties of a few functions ----------------------------------------------------------------


X1, X2 = uniform(4, 3, 4), uniform(5, 2, 4)
implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def matrix(kernel):
    """`[n, m, o, q]` as `[n o, m q]`."""
    n, m, o, q = kernel.shape
    return np.asarray(kernel, np.float64).transpose(0, 2, 1, 3).reshape(n * o, m * q)


@half(implementation=IMPLEMENTATIONS, vmap_axes=(0, None), dtype=(np.float32, np.float64))
def test_kernel_is_symmetric_and_positive_semidefinite(implementation, vmap_axes, dtype):
    # More outputs than parameters: eigenvalues that are zero must not turn out negative.
    params, x = mlp_params(dtype, width=2, outputs=3), uniform(6, 9, 4, dtype=dtype)
    ntk_fn = nt.empirical_ntk_fn(mlp, (), (), vmap_axes, implementation)
    kernel = matrix(jax.jit(ntk_fn)(x, None, params))
    np.testing.assert_array_equal(kernel, kernel.T)
    eigenvalues = np.linalg.eigvalsh(kernel)
    assert eigenvalues[0] >= -50 * np.finfo(dtype).eps * eigenvalues[-1]


def test_nngp_is_symmetric_and_positive_semidefinite():
    x = uniform(6, 9, 4)
    kernel = np.asarray(nt.empirical_nngp_fn(mlp)(x, None, mlp_params()))
    np.testing.assert_array_equal(kernel, kernel.T)
    eigenvalues = np.linalg.eigvalsh(kernel)
    assert eigenvalues[0] >= -1e-14 * eigenvalues[-1]


@half(implementation=IMPLEMENTATIONS, vmap_axes=(0, None))
def test_jit_changes_nothing(implementation, vmap_axes):
    ntk_fn = nt.empirical_ntk_fn(mlp, (), (), vmap_axes, implementation)
    for x2 in (X2, None):
        eager = ntk_fn(X1, x2, mlp_params())
        assert_equal(jax.jit(ntk_fn)(X1, x2, mlp_params()), np.asarray(eager), 1e-14)


def test_kernel_fn_under_jit_with_static_get():
    kernel_fn = nt.empirical_kernel_fn(mlp, vmap_axes=0)
    jitted = jax.jit(kernel_fn, static_argnums=2)
    for get in ("ntk", "nngp", ("ntk", "nngp"), None):
        assert_equal(
            jitted(X1, X2, get, mlp_params()),
            jax.tree.map(np.asarray, kernel_fn(X1, X2, get, mlp_params())),
            1e-14,
        )


@half(implementation=IMPLEMENTATIONS, vmap_axes=(0, None))
def test_vmap_over_parameters(implementation, vmap_axes):
    ntk_fn = nt.empirical_ntk_fn(mlp, (), (), vmap_axes, implementation)
    stacked = {k: uniform(7, 3, *w.shape) for k, w in mlp_params().items()}
    kernels = jax.jit(jax.vmap(ntk_fn, (None, None, 0)))(X1, X2, stacked)
    for i in range(3):
        params = {k: w[i] for k, w in stacked.items()}
        assert_equal(kernels[i], oracles.naive_ntk(mlp, params, X1, X2))


@half(implementation=IMPLEMENTATIONS, vmap_axes=(0, None), x2=(X2, None))
def test_gradient_of_a_kernel_entry(implementation, vmap_axes, x2):
    ntk_fn = nt.empirical_ntk_fn(mlp, (), (), vmap_axes, implementation)

    def entry(params):
        return ntk_fn(X1, x2, params)[1, 0, 1, 0]

    def definition(params):
        def gradient(x, output):
            return jax.grad(lambda p: mlp(p, x)[output])(params)

        g1, g2 = gradient(X1[1], 1), gradient((X1 if x2 is None else x2)[0], 0)
        return sum(jnp.sum(g1[k] * g2[k]) for k in g1)

    expected = jax.tree.map(np.asarray, jax.jit(jax.grad(definition))(mlp_params()))
    assert_equal(jax.jit(jax.grad(entry))(mlp_params()), expected)


# --- dtypes ---------------------------------------------------------------------------------------


@half(implementation=IMPLEMENTATIONS, vmap_axes=(0, None))
def test_float32_stays_float32(implementation, vmap_axes):
    params = mlp_params(np.float32)
    x = X1.astype(np.float32)
    ntk_fn = nt.empirical_ntk_fn(mlp, (), (), vmap_axes, implementation)
    kernel = jax.jit(ntk_fn)(x, None, params)
    assert kernel.dtype == np.float32
    # The same numbers in float64.
    exact = jax.tree.map(lambda w: w.astype(np.float64), params)
    expected = oracles.naive_ntk(mlp, exact, x.astype(np.float64))
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@half(
    implementation=IMPLEMENTATIONS,
    dtypes=[
        ("float32", "float64", "float64"),
        ("float64", "float32", "float64"),
        ("bfloat16", "float32", "float32"),
        ("float16", "float32", "float32"),
        ("bfloat16", "bfloat16", "float32"),
        ("float16", "float16", "float32"),
    ],
)
def test_kernel_has_the_dtype_of_outputs_and_parameters(implementation, dtypes):
    params_dtype, x_dtype, expected = dtypes
    params, x = mlp_params(params_dtype), X1.astype(x_dtype)
    ntk_fn = nt.empirical_ntk_fn(mlp, vmap_axes=0, implementation=implementation)
    kernel = jax.jit(ntk_fn)(x, None, params)
    assert kernel.dtype == expected
    exact = jax.tree.map(lambda w: w.astype(np.float64), params)
    naive = oracles.naive_ntk(mlp, exact, x.astype(np.float64), trace_axes=(-1,))
    narrowest = min(jnp.finfo(params_dtype).bits, jnp.finfo(x_dtype).bits)
    tolerance = {16: 0.05, 32: 1e-5}[narrowest]
    error = np.abs(np.asarray(kernel, np.float64) - naive).max()
    assert error <= tolerance * np.abs(naive).max()


def summed(w, x):
    return jnp.sum(w * x, axis=-1, keepdims=True)


def multiplied(w, x):
    return x @ w[:, None]


@half(dtype=("bfloat16", "float16"), implementation=(0, 1, 3), term=(summed, multiplied))
def test_sixteen_bits_are_contracted_in_thirty_two(dtype, implementation, term):
    """A sum over many parameters and many leaves, rounded to 16 bits at no place."""
    leaves = [uniform(i, 200, dtype=dtype) for i in range(25)]
    x = uniform(1000, 2, 25, 200, dtype=dtype)

    def f(params, x):
        return sum(term(w, x[:, i]) for i, w in enumerate(params))

    @jax.jit
    def kernels(leaves):
        axes = ((), (0,))
        return [nt.empirical_ntk_fn(f, (), a, 0, implementation)(x, None, leaves) for a in axes]

    full, diagonal = (np.asarray(kernel, np.float64) for kernel in kernels(leaves))
    J = np.asarray(x, np.float64).reshape(2, -1)  # without rounding
    bound = 1e-5 * np.abs(J @ J.T).max()
    assert np.abs(full[:, :, 0, 0] - J @ J.T).max() <= bound
    assert np.abs(diagonal[:, 0, 0] - np.diag(J @ J.T)).max() <= bound


def elementwise(params, x):
    """A function without matrix products: those of its kernels are the library's."""
    return jnp.tanh(params["w"] * x)


def precisions(kernel_fn):
    """The precision of every matrix product of a kernel; 'None' where it is left open."""

    def walk(jaxpr):
        for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
            if eqn.primitive.name == "dot_general":
                yield str(eqn.params["precision"])
            for value in eqn.params.values():
                if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                    yield from walk(value)

    w = {"w": uniform(1, 4, dtype=np.float32)}
    x = uniform(2, 3, 4, dtype=np.float32)
    return list(walk(jax.make_jaxpr(lambda x, w: kernel_fn(x, None, w))(x, w)))


@pytest.mark.parametrize("make", [nt.empirical_ntk_fn, nt.empirical_nngp_fn])
def test_matrix_products_have_full_precision_by_default(make):
    found = precisions(make(elementwise))
    assert found
    assert all("HIGHEST" in precision for precision in found)


@pytest.mark.parametrize("make", [nt.empirical_ntk_fn, nt.empirical_nngp_fn])
def test_precision_lowers_it(make):
    found = precisions(make(elementwise, precision="default"))
    assert found
    assert not any("HIGHEST" in precision for precision in found)


# --- batch axes -----------------------------------------------------------------------------------


def last_axis_batch(params, x):
    """Examples along the last axis of the input, the middle one of the output `[o, n, 1]`."""
    return jnp.tanh(params["w"].T @ x)[:, :, None]


@half(
    implementation=IMPLEMENTATIONS,
    places=[(1, 1), (-1, -2)],
    choice=[((), ()), ((), (1,)), ((0, 2), (1,)), ((2,), (0,))],
)
def test_batch_axis_anywhere(implementation, places, choice):
    in_axes, out_axes = places
    params = {"w": uniform(1, 4, 2)}
    x = X1.T
    ntk_fn = nt.empirical_ntk_fn(last_axis_batch, *choice, (in_axes, out_axes, {}), implementation)
    expected = oracles.naive_ntk(
        last_axis_batch, params, x, trace_axes=choice[0], diagonal_axes=choice[1]
    )
    ntk_fn = jax.jit(ntk_fn)
    assert_equal(ntk_fn(x, None, params), expected)
    if 1 not in choice[0] + choice[1]:
        expected = oracles.naive_ntk(
            last_axis_batch, params, x, X2.T, trace_axes=choice[0], diagonal_axes=choice[1]
        )
        assert_equal(ntk_fn(x, X2.T, params), expected)


def two_inputs(params, x, *, scale, pattern, shift=0.0):
    a, b = x["a"], x["b"]  # [n, 4] and [3, n]
    h = jnp.tanh(a @ params["w"]) * pattern + b.T @ params["v"] + scale
    return {"last": h.T, "first": jnp.sin(h) * x["shared"] + shift}


@half(implementation=IMPLEMENTATIONS, given=(True, False))
def test_trees_of_batch_axes(implementation, given):
    """A batch axis of its own for each leaf, shared leaves, keyword arguments with examples."""
    params = {"w": uniform(1, 4, 2), "v": uniform(2, 3, 2)}

    def x(seed, n):
        return {"a": uniform(seed, n, 4), "b": uniform(seed + 1, 3, n), "shared": uniform(seed, 2)}

    in_axes = {"a": 0, "b": -1, "shared": None}
    out_axes = {"last": 1, "first": 0}
    vmap_axes = (in_axes, out_axes, {"pattern": 0})
    x1, x2 = x(10, 3), x(20, 2) if given else None
    pattern1, pattern2 = uniform(3, 3, 2), uniform(4, 2, 2)
    ntk_fn = nt.empirical_ntk_fn(two_inputs, (), (), vmap_axes, implementation)
    if given:
        kernel = jax.jit(ntk_fn)(
            x1, x2, params, scale=0.3, pattern=(pattern1, pattern2), shift=(0.1, 0.2)
        )
        kwargs2 = {"scale": 0.3, "pattern": pattern2, "shift": 0.2}
        kwargs1 = {"scale": 0.3, "pattern": pattern1, "shift": 0.1}
    else:
        kernel = jax.jit(ntk_fn)(x1, None, params, scale=0.3, pattern=pattern1)
        kwargs1 = kwargs2 = {"scale": 0.3, "pattern": pattern1}
    expected = oracles.naive_ntk(two_inputs, params, x1, x2, kwargs1=kwargs1, kwargs2=kwargs2)
    assert_equal(kernel, expected)


def test_in_axes_may_be_a_prefix_of_the_input():
    params = {"w": uniform(1, 4, 2), "v": uniform(2, 4, 2)}

    def f(params, x):
        return jnp.tanh(x[0]["a"] @ params["w"]) + (x[0]["b"] @ params["v"]) * x[1]

    x = ({"a": X1, "b": uniform(6, 3, 4)}, jnp.asarray(0.7))
    ntk_fn = nt.empirical_ntk_fn(f, vmap_axes=((0, None), 0, {}))
    assert_equal(ntk_fn(x, None, params), oracles.naive_ntk(f, params, x, trace_axes=(-1,)))


@implementations
def test_diagonal_over_the_batch_costs_n(implementation):
    """With the batch among the diagonal axes, `f` never sees all pairs."""
    params = mlp_params()
    x1, x2 = uniform(6, 40, 4), uniform(7, 40, 4)

    def flops(diagonal_axes):
        ntk_fn = nt.empirical_ntk_fn(mlp, (-1,), diagonal_axes, 0, implementation)
        return jax.jit(ntk_fn).lower(x1, x2, params).compile().cost_analysis()["flops"]

    assert flops((0,)) < flops(()) / 5


# --- keyword arguments ----------------------------------------------------------------------------


# What is pointed out where there is no x2 is meant here.
pairs_without_x2 = pytest.mark.filterwarnings("ignore:.* is a tuple of two")


def shifted(params, x, shift):
    return jnp.tanh(x @ params["w"] + shift)


@pairs_without_x2
@half(implementation=IMPLEMENTATIONS, vmap_axes=(0, None), x2=(X2, None))
def test_a_pair_of_keyword_arguments_is_split(implementation, vmap_axes, x2):
    params = {"w": uniform(1, 4, 2)}
    ntk_fn = jax.jit(nt.empirical_ntk_fn(shifted, (), (), vmap_axes, implementation))
    expected = oracles.naive_ntk(
        shifted, params, X1, x2, kwargs1={"shift": 0.3}, kwargs2={"shift": -0.6}
    )
    assert_equal(ntk_fn(X1, x2, params, shift=(0.3, -0.6)), expected)


@pairs_without_x2
@pytest.mark.parametrize("x2", [X2, None], ids=["x1_x2", "x1"])
def test_a_pair_of_keyword_arguments_is_split_in_every_call(x2):
    params = {"w": uniform(1, 4, 2)}
    kwargs1, kwargs2 = {"shift": 0.3}, {"shift": -0.6}
    nngp = oracles.naive_nngp(
        shifted, params, X1, x2, trace_axes=(-1,), kwargs1=kwargs1, kwargs2=kwargs2
    )
    assert_equal(nt.empirical_nngp_fn(shifted)(X1, x2, params, shift=(0.3, -0.6)), nngp)
    kernels = nt.empirical_kernel_fn(shifted, vmap_axes=0)(X1, x2, params, shift=(0.3, -0.6))
    assert_equal(kernels.nngp, nngp)
    v = uniform(8, *(X1 if x2 is None else x2).shape[:1], 2)
    product = nt.empirical_ntk_vp_fn(shifted, X1, x2, params, shift=(0.3, -0.6))(v)
    ntk = oracles.naive_ntk(shifted, params, X1, x2, kwargs1=kwargs1, kwargs2=kwargs2)
    assert_equal(product, np.einsum("nmoq,mq->no", ntk, v))


def noisy(params, x, rng):
    """The Jacobian is the noise, and the same for every example."""
    noise = jax.random.normal(rng, params["w"].shape)
    return jnp.broadcast_to((params["w"] * noise).sum(), (len(x), 1)) + 0 * x[:, :1]


KEYS = pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])


@KEYS
@pytest.mark.parametrize("x2", [None, X1 + 0.0, np.asarray(X1)], ids=["none", "copy", "numpy"])
def test_rng_is_shared_by_equal_inputs(make_key, x2):
    params, rng = {"w": uniform(1, 4)}, make_key(3)
    kernel = nt.empirical_ntk_fn(noisy, ())(X1, x2, params, rng=rng)
    assert_equal(kernel, oracles.naive_ntk(noisy, params, X1, kwargs1={"rng": rng}))
    nngp = nt.empirical_nngp_fn(noisy, ())(X1, x2, params, rng=rng)
    assert_equal(nngp, oracles.naive_nngp(noisy, params, X1, kwargs1={"rng": rng}))


@KEYS
def test_rng_is_folded_into_two_keys_for_unequal_inputs(make_key):
    params, rng = {"w": uniform(1, 4)}, make_key(3)
    square = float(jnp.sum(jax.random.normal(rng, (4,)) ** 2))
    ntk_fn = nt.empirical_ntk_fn(noisy, ())
    kernel = ntk_fn(X1, X2, params, rng=rng)
    assert kernel.shape == (3, 2, 1, 1)
    # The kernel of one draw with itself is its square; of two draws it is not (Cauchy-Schwarz).
    assert np.ptp(kernel) == 0
    assert abs(float(kernel[0, 0, 0, 0]) - square) > 1e-3
    np.testing.assert_array_equal(kernel, ntk_fn(X1, X2, params, rng=rng))
    assert float(ntk_fn(X1, X2, params, rng=make_key(4))[0, 0, 0, 0]) != kernel[0, 0, 0, 0]


def test_rng_none_and_a_pair_of_keys():
    params, rng = {"w": uniform(1, 4)}, jax.random.key(3)
    other = jax.random.key(4)
    kernel = nt.empirical_ntk_fn(noisy, ())(X1, X2, params, rng=(rng, other))
    expected = oracles.naive_ntk(
        noisy, params, X1, X2, kwargs1={"rng": rng}, kwargs2={"rng": other}
    )
    assert_equal(kernel, expected)

    def f(params, x, rng=None):
        assert rng is None
        return x @ params["w"]

    nt.empirical_ntk_fn(f, ())(X1, X2, params, rng=None)


# --- trees of parameters and inputs of every kind -------------------------------------------------


@half(implementation=IMPLEMENTATIONS, vmap_axes=(0, None))
def test_numpy_inputs_and_python_floats(implementation, vmap_axes):
    def f(params, x):
        return jnp.tanh(params["s"] * (x @ params["w"])) + params["t"]

    params = {"s": 0.7, "t": np.float64(0.3), "w": np.asarray(uniform(1, 4, 2))}
    ntk_fn = nt.empirical_ntk_fn(f, (), (), vmap_axes, implementation)
    kernel = ntk_fn(np.asarray(X1), np.asarray(X2), params)
    assert_equal(kernel, oracles.naive_ntk(f, params, X1, X2))


@half(implementation=IMPLEMENTATIONS, vmap_axes=(0, None))
def test_leaves_that_are_no_numbers_are_constants(implementation, vmap_axes):
    """Functions, strings, integers, keys and `None` among the parameters."""

    def f(params, x):
        noise = jax.random.normal(params["key"], (2,))
        assert params["none"] is None
        assert params["name"] == "dense"
        return params["act"](x @ params["w"]) * params["count"] + noise

    params = {
        "w": uniform(1, 4, 2),
        "act": jnp.tanh,
        "name": "dense",
        "count": 3,
        "key": jax.random.key(1),
        "none": None,
    }
    ntk_fn = nt.empirical_ntk_fn(f, (), (), vmap_axes, implementation)
    expected = oracles.naive_ntk(lambda w, x: f(params | {"w": w}, x), params["w"], X1, X2)
    assert_equal(ntk_fn(X1, X2, params), expected)
    v = uniform(2, 2, 2)
    product = nt.empirical_ntk_vp_fn(f, X1, X2, params)(v)
    assert_equal(product, np.einsum("nmoq,mq->no", expected, v))


@implementations
def test_a_module_of_equinox(implementation):
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(4, 2, 5, 1, activation=jnp.tanh, key=jax.random.key(0))

    @eqx.filter_jit
    def f(model, x):
        return jax.vmap(model)(x)

    ntk_fn = nt.empirical_ntk_fn(f, (), (), 0, implementation)
    arrays, static = eqx.partition(model, eqx.is_array)
    expected = oracles.naive_ntk(lambda a, x: f(eqx.combine(a, static), x), arrays, X1, X2)
    assert_equal(ntk_fn(X1, X2, model), expected)


@implementations
def test_outputs_that_are_no_arrays_of_jax(implementation):
    """Python numbers and NumPy arrays are outputs without parameters."""

    def f(params, x):
        return {"float": 0.7, "numpy": np.asarray(X1), "dense": x @ params["w"]}

    params = {"w": uniform(1, 4, 2)}
    ntk_fn = nt.empirical_ntk_fn(f, (), implementation=implementation)
    kernels = jax.jit(ntk_fn)(X1, None, params)
    assert_equal(kernels["float"], np.zeros(()))
    assert_equal(kernels["numpy"], np.zeros((3, 3, 4, 4)))
    dense = oracles.naive_ntk(lambda params, x: f(params, x)["dense"], params, X1)
    assert_equal(kernels["dense"], dense)


@half(
    implementation=IMPLEMENTATIONS,
    vmap_axes=(0, None),
    sizes=[(0, 2, 4, 5, 2), (3, 0, 4, 5, 2), (0, 0, 0, 5, 2), (3, 2, 0, 0, 2), (3, 2, 4, 5, 0)],
)
def test_zero_size(implementation, vmap_axes, sizes):
    n, m, d, width, outputs = sizes
    params = mlp_params(None, d, width, outputs)
    x1, x2 = uniform(6, n, d), uniform(7, m, d)
    ntk_fn = nt.empirical_ntk_fn(mlp, (-1,), (), vmap_axes, implementation)
    assert_equal(jax.jit(ntk_fn)(x1, x2, params), np.zeros((n, m)))


def test_nothing_is_left_over_where_two_functions_share_a_kernel_fn():
    """The same `ntk_fn` on other shapes, dtypes and parameters."""
    ntk_fn = jax.jit(nt.empirical_ntk_fn(mlp, (), vmap_axes=0))
    for n, width, outputs in [(3, 5, 2), (2, 4, 1), (3, 5, 2)]:
        params = mlp_params(width=width, outputs=outputs)
        x = X1[:n]
        assert_equal(ntk_fn(x, None, params), oracles.naive_ntk(mlp, params, x))


# --- one direction of differentiation only --------------------------------------------------------


@half(jit=(True, False), name=[n for n in cases.NAMES if n.startswith("custom_vjp")])
def test_custom_vjp(name, jit):
    """No forward mode: every call works but implementation 2, which names those that do."""
    case = cases.get(name)
    for implementation in (0, 1, 3):
        ntk_fn = nt.empirical_ntk_fn(case.f, (), (), 0, implementation)
        assert_equal(evaluate(ntk_fn, case, case.x1, case.x2, jit), full_ntk(name, True))
    ntk_fn = nt.empirical_ntk_fn(case.f, (), (), 0, 2)
    with pytest.raises(ValueError, match="AUTO or JACOBIAN_CONTRACTION"):
        evaluate(ntk_fn, case, case.x1, case.x2, jit)


@half(jit=(True, False), name=[n for n in cases.NAMES if n.startswith("custom_vjp")])
def test_ntk_vp_of_custom_vjp(name, jit):
    case = cases.get(name)
    v = uniform(1, *jax.eval_shape(case.f, case.params, case.x2).shape)

    def product(v):
        return nt.empirical_ntk_vp_fn(case.f, case.x1, case.x2, case.params)(v)

    expected = np.einsum("nmoq,mq->no", full_ntk(name, True), v)
    assert_equal((jax.jit(product) if jit else product)(v), expected)


@half(
    implementation=(0, 1, 3),
    function=("while_loop", "solve_without_transpose"),
    vmap_axes=(0, None),
)
def test_without_reverse_mode(function, implementation, vmap_axes):
    case = cases.get(function)
    ntk_fn = nt.empirical_ntk_fn(case.f, (), (), vmap_axes, implementation)
    assert_equal(evaluate(ntk_fn, case, case.x1, case.x2, True), full_ntk(function, True))
