"""What is refused, what is warned of, and in which words."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import oracles
from support.arrays import assert_equal, mlp, mlp_params, uniform
from support.options import half

import tangax as nt

PARAMS = mlp_params()
X1, X2 = uniform(4, 3, 4), uniform(5, 2, 4)
KERNELS = (nt.empirical_ntk_fn, nt.empirical_nngp_fn, nt.empirical_kernel_fn)
kernels = pytest.mark.parametrize("make", KERNELS, ids=lambda make: make.__name__)
WITH_VMAP = (nt.empirical_ntk_fn, nt.empirical_kernel_fn)
with_vmap = pytest.mark.parametrize("make", WITH_VMAP, ids=lambda make: make.__name__)


def call(make, f, x1, x2, params, **options):
    """Make a kernel function and call it; errors may come at either time."""
    return make(f, **options)(x1, x2, params)


# --- axes -----------------------------------------------------------------------------------------


@half(make=KERNELS, which=("trace_axes", "diagonal_axes"), axis=(2, -3, 17))
def test_axis_out_of_range(make, which, axis):
    options = {"trace_axes": (), "diagonal_axes": ()} | {which: (0, axis)}
    with pytest.raises(ValueError, match=rf"{which}.*axis {axis}.*out of range.*\(3, 2\)"):
        call(make, mlp, X1, None, PARAMS, **options)


@kernels
def test_default_trace_axes_of_a_scalar_output(make):
    with pytest.raises(ValueError, match=r"axis -1.*shape \(\).*trace_axes=\(\)"):
        call(make, lambda p, x: mlp(p, x).sum(), X1, None, PARAMS)


@kernels
def test_the_output_out_of_range_is_named(make):
    def f(params, x):
        return {"good": mlp(params, x), "bad": [mlp(params, x)[:, 0]]}

    with pytest.raises(ValueError, match=r"axis 1.*\['bad'\]\[0\].*\(3,\)"):
        call(make, f, X1, None, PARAMS, trace_axes=(1,))


@half(make=KERNELS, both=[((1,), (1,)), ((-1,), (1,)), (1, -1), ((0, 1), (-2,))])
def test_axis_traced_and_diagonal(make, both):
    trace_axes, diagonal_axes = both
    axis = 0 if diagonal_axes == (-2,) else 1
    with pytest.raises(ValueError, match=rf"axis {axis}.*\(3, 2\).*trace_axes and diagonal_axes"):
        call(make, mlp, X1, None, PARAMS, trace_axes=trace_axes, diagonal_axes=diagonal_axes)


@half(make=KERNELS, which=("trace_axes", "diagonal_axes"), axes=[(1, 1), (1, -1), (0, 1, -2)])
def test_repeated_axis(make, which, axes):
    options = {"trace_axes": (), "diagonal_axes": ()} | {which: axes}
    axis = 0 if -2 in axes else 1
    with pytest.raises(ValueError, match=rf"{which}.*repeats axis {axis}.*\(3, 2\)"):
        call(make, mlp, X1, None, PARAMS, **options)


@half(make=KERNELS, axes=[(0.5,), (True,), ("1",), (None,)])
def test_axis_that_is_no_integer(make, axes):
    with pytest.raises(ValueError, match="trace_axes must be integers"):
        call(make, mlp, X1, None, PARAMS, trace_axes=axes)


def test_axes_in_a_string():
    with pytest.raises(ValueError, match="trace_axes must be integers, got '-1'"):
        nt.empirical_ntk_fn(mlp, trace_axes="-1")(X1, None, PARAMS)


@half(make=KERNELS, axes=[1, -1, np.int64(1), [1], (np.int32(-1),)])
def test_axes_of_every_spelling(make, axes):
    actual = jax.jit(make(mlp, trace_axes=axes))(X1, X2, PARAMS)
    expected = jax.jit(make(mlp, trace_axes=(1,)))(X1, X2, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@kernels
@pytest.mark.parametrize("which", ["trace_axes", "diagonal_axes"])
def test_sizes_that_differ_on_a_shared_axis(make, which):
    options = {"trace_axes": (), "diagonal_axes": ()} | {which: (0,)}
    with pytest.raises(ValueError, match=rf"axis 0.*{which}.*\(3, 2\) and \(2, 2\)"):
        call(make, mlp, X1, X2, PARAMS, **options)


@kernels
def test_outputs_of_different_rank_or_tree(make):
    def rank(params, x):
        return mlp(params, x) if len(x) == 3 else mlp(params, x)[0]

    with pytest.raises(ValueError, match=r"\(3, 2\) and \(2,\)"):
        call(make, rank, X1, X2, PARAMS)

    def tree(params, x):
        return mlp(params, x) if len(x) == 3 else {"a": mlp(params, x)}

    with pytest.raises(ValueError, match="same tree"):
        call(make, tree, X1, X2, PARAMS)


# --- trees of inputs, vmap_axes -------------------------------------------------------------------


def two_inputs(params, x):
    return mlp(params, x["a"]) * x["b"]


@kernels
def test_inputs_of_different_structure(make):
    x = {"a": X1, "b": uniform(6, 3, 1)}
    with pytest.raises(ValueError, match=r"same tree structure.*x1\['b'\]"):
        call(make, two_inputs, x, {"a": X2}, PARAMS)
    with pytest.raises(ValueError, match=r"same tree structure.*x2\['c'\]"):
        call(make, two_inputs, x, x | {"c": X2}, PARAMS)
    with pytest.raises(ValueError, match="same tree structure"):
        call(make, two_inputs, x, X2, PARAMS)


@with_vmap
def test_batch_axis_of_two_lengths(make):
    x = {"a": X1, "b": uniform(6, 2, 1)}
    with pytest.raises(ValueError, match=r"x1\['a'\] has 3 and x1\['b'\] has 2"):
        call(make, two_inputs, x, None, PARAMS, vmap_axes=0)
    good = {"a": X1, "b": uniform(6, 3, 1)}
    with pytest.raises(ValueError, match=r"x2\['a'\] has 3 and x2\['b'\] has 2"):
        call(make, two_inputs, good, x, PARAMS, vmap_axes=0)


@with_vmap
def test_vmap_axes_that_do_not_fit_the_input(make):
    x = {"a": X1, "b": uniform(6, 3)}
    with pytest.raises(ValueError, match=r"x1\['b'\].*axis 1.*shape is \(3,\)"):
        call(make, two_inputs, x, None, PARAMS, vmap_axes=1)
    with pytest.raises(ValueError, match=r"x1\['b'\].*axis -2.*shape is \(3,\)"):
        call(make, two_inputs, x, None, PARAMS, vmap_axes=({"a": 0, "b": -2}, 0, {}))
    with pytest.raises(ValueError, match=r"x1\['b'\]"):
        call(make, two_inputs, x, None, PARAMS, vmap_axes=({"a": 0}, 0, {}))
    with pytest.raises(ValueError, match=r"x1.*\['c'\]"):
        call(make, two_inputs, x, None, PARAMS, vmap_axes=({"a": 0, "b": 0, "c": 0}, 0, {}))
    with pytest.raises(ValueError, match=r"x1\['a'\]"):
        call(make, two_inputs, x, None, PARAMS, vmap_axes=({"a": (0, 0), "b": 0}, 0, {}))
    with pytest.raises(ValueError, match=r"x1\['a'\].*'first'"):
        call(make, two_inputs, x, None, PARAMS, vmap_axes=({"a": "first", "b": 0}, 0, {}))


@with_vmap
def test_vmap_axes_that_do_not_fit_the_output(make):
    with pytest.raises(ValueError, match=r"f\(params, x\).*axis 2.*\(3, 2\)"):
        call(make, mlp, X1, None, PARAMS, vmap_axes=(0, 2, {}))
    with pytest.raises(ValueError, match=r"f\(params, x\).*\(3, 2\).*x1 holds 3 examples"):
        call(make, mlp, X1, None, PARAMS, vmap_axes=(0, 1, {}))
    with pytest.raises(ValueError, match=r"no batch axis.*x1 holds 3 examples"):
        call(make, mlp, X1, None, PARAMS, vmap_axes=(0, None, {}))
    with pytest.raises(ValueError, match="no input a batch axis"):
        call(make, mlp, X1, None, PARAMS, vmap_axes=(None, 0, {}))
    with pytest.raises(ValueError, match=r"\{'b': 0\}.*f\(params, x\)"):
        call(make, mlp, X1, None, PARAMS, vmap_axes=(0, {"b": 0}, {}))
    with pytest.raises(ValueError, match=r"f\(params, x\).*\(\)"):
        call(make, lambda p, x: mlp(p, x).sum(), X1, None, PARAMS, trace_axes=(), vmap_axes=0)


@with_vmap
@pytest.mark.parametrize("vmap_axes", ["0", 0.5, True])
def test_vmap_axes_of_another_form(make, vmap_axes):
    with pytest.raises(ValueError, match="vmap_axes must be an int, None, a tree of them"):
        call(make, mlp, X1, None, PARAMS, vmap_axes=vmap_axes)


@with_vmap
@pytest.mark.parametrize("vmap_axes", [(0, 0), (0, 0, 0), [0, 0, {}], {"a": 0}, ()], ids=str)
def test_a_tree_of_axes_that_does_not_fit(make, vmap_axes):
    with pytest.raises(ValueError, match=r"does not fit x1: .* prefix of x1.*\(in_axes, out_axes"):
        call(make, mlp, X1, None, PARAMS, vmap_axes=vmap_axes)


def tree_of_axes(params, x):
    """Two outputs in the tree of the two inputs, whose examples lie along axes 0 and 1."""
    first, (second, scale) = x
    y = jnp.tanh(second.T @ params["w"]) @ params["v"]
    return mlp(params, first) * scale, ((y * first[:, :1]).T, None)


@half(make=WITH_VMAP, axes=[(0, (1, None)), (-2, (-1, None)), (0, (np.int64(1), None))])
def test_one_tree_of_axes_for_inputs_and_outputs(make, axes):
    x1, x2 = ((x, (uniform(7, 4, len(x)), None)) for x in (X1, X2))

    def f(params, x):
        return tree_of_axes(params, (x[0], (x[1][0], 0.7)))

    options = {"trace_axes": (), "vmap_axes": axes}
    for second in (None, x2):
        got = jax.jit(make(f, **options), static_argnames="get")(x1, second, params=PARAMS)
        assert_equal(getattr(got, "ntk", got), oracles.naive_ntk(f, PARAMS, x1, second))


def test_trees_of_axes_of_every_container():
    w = uniform(2, 4, 2)
    for pack in (list, tuple, lambda xs: dict(zip("ab", xs, strict=True))):
        x, axes = pack([uniform(0, 3, 4), uniform(1, 3, 4)]), pack([0, 0])

        def f(w, x):
            return jax.tree.map(lambda a: jnp.tanh(a @ w), x)

        for implementation in (0, 1, 2):
            ntk_fn = nt.empirical_ntk_fn(f, (), (), axes, implementation)
            assert_equal(ntk_fn(x, None, w), oracles.naive_ntk(f, w, x))
        assert_equal(
            nt.batch(nt.empirical_ntk_fn(f, (), (), axes), 2)(x, None, w),
            oracles.naive_ntk(f, w, x),
        )


def test_a_tree_of_axes_fits_outputs_too():
    x = (X1, uniform(7, 3, 4))
    with pytest.raises(ValueError, match=r"\(0, 0\) does not fit f\(params, x\)"):
        nt.empirical_ntk_fn(lambda p, x: mlp(p, x[0] + x[1]), vmap_axes=(0, 0))(x, None, PARAMS)
    with pytest.raises(ValueError, match=r"f\(params, x\)\[1\] no batch axis"):
        nt.empirical_ntk_fn(lambda p, x: (mlp(p, x[0]), mlp(p, x[1])), vmap_axes=(0, None))(
            x, None, PARAMS
        )
    with pytest.raises(ValueError, match=r"ends in a dict is \(in_axes, out_axes"):
        nt.empirical_ntk_fn(lambda p, x: x, vmap_axes=(0, 0, {"a": 0}))((X1, X1), None, PARAMS)
    nothing = nt.empirical_ntk_fn(lambda p, x: (mlp(p, x[0]), mlp(p, x[1])), (), (), (None, None))
    expected = oracles.naive_ntk(lambda p, x: (mlp(p, x[0]), mlp(p, x[1])), PARAMS, x)
    assert_equal(nothing(x, None, PARAMS), expected)


@kernels
def test_lists_in_place_of_arrays(make):
    x = [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]]

    def f(params, x):
        return mlp(params, jnp.asarray(x))

    assert_equal(call(make, f, x, None, PARAMS), call(make, mlp, np.array(x), None, PARAMS))
    if make is not nt.empirical_nngp_fn:
        with pytest.raises(ValueError, match=r"x1\[0\]\[0\].*it is 0.1, a float and no array"):
            call(make, f, x, None, PARAMS, vmap_axes=0)


# --- x2 as a tree of None -------------------------------------------------------------------------


def of_tree(params, x):
    return mlp(params, x["a"]) * x["b"][0]


@half(make=KERNELS, wrap=(lambda fn: fn, jax.jit))
def test_x2_may_be_a_tree_of_none(make, wrap):
    x = {"a": X1, "b": [uniform(6, 3, 1), None]}
    fn = wrap(make(of_tree, trace_axes=()))
    got = fn(x, {"a": None, "b": [None, None]}, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, got, fn(x, None, PARAMS))
    for ntk in [getattr(got, "ntk", getattr(got, "nngp", got))]:
        np.testing.assert_array_equal(ntk, ntk.transpose(1, 0, 3, 2))  # x1 itself, not its equal


def test_x2_as_a_tree_of_none_in_blocks_and_products():
    x, none = {"a": X1, "b": [uniform(6, 3, 1)]}, {"a": None, "b": [None]}
    kernel_fn = nt.batch(nt.empirical_ntk_fn(of_tree, (), vmap_axes=0), 2)
    np.testing.assert_array_equal(kernel_fn(x, none, PARAMS), kernel_fn(x, None, PARAMS))
    assert "x2" in str(kernel_fn.explain(x, none, PARAMS))
    v = uniform(1, 3, 2)
    products = [nt.empirical_ntk_vp_fn(of_tree, x, x2, PARAMS)(v) for x2 in (none, None)]
    np.testing.assert_array_equal(*products)


@kernels
@pytest.mark.parametrize("wrap", [lambda fn: fn, nt.batch], ids=["whole", "batch"])
def test_x2_that_is_partly_none(make, wrap):
    x = {"a": X1, "b": [uniform(6, 3, 1)]}
    with pytest.raises(ValueError, match=r"x2\['b'\]\[0\] is None and x2\['a'\] is not"):
        wrap(make(of_tree))(x, {"a": X2, "b": [None]}, PARAMS)
    with pytest.raises(ValueError, match="same tree structure"):
        wrap(make(of_tree))(x, {"a": None, "b": None}, PARAMS)
    with pytest.raises(ValueError, match=r"x2\['a'\] is None and x2\['b'\] is not"):
        wrap(make(lambda p, x: mlp(p, x["a"])))({"a": X1, "b": None}, {"a": None, "b": X1}, PARAMS)


@with_vmap
def test_axes_of_keyword_arguments_that_do_not_fit(make):
    def f(params, x, pattern):
        return mlp(params, x) * pattern

    fn = make(f, vmap_axes=(0, 0, {"pattern": 0}))
    with pytest.raises(ValueError, match=r"x1 has 3.*pattern has 2|pattern has 2.*x1 has 3"):
        fn(X1, None, PARAMS, pattern=uniform(1, 2, 2))
    with pytest.raises(ValueError, match=r"pattern.*axis 0.*\(\)"):
        fn(X1, None, PARAMS, pattern=0.3)
    with pytest.raises(ValueError, match=r"'pattern'.*not passed"):
        fn(X1, None, PARAMS)


# --- parameters and outputs -----------------------------------------------------------------------

NTK_CALLS = {
    "ntk": lambda f, params: nt.empirical_ntk_fn(f)(X1, X2, params),
    "kernel": lambda f, params: nt.empirical_kernel_fn(f)(X1, X2, "ntk", params),
    "vp": lambda f, params: nt.empirical_ntk_vp_fn(f, X1, X2, params)(uniform(1, 2, 2)),
}
ALL_CALLS = NTK_CALLS | {
    "nngp": lambda f, params: nt.empirical_nngp_fn(f)(X1, X2, params),
    "both": lambda f, params: nt.empirical_kernel_fn(f)(X1, X2, params),
}
ntk_calls = pytest.mark.parametrize("call", NTK_CALLS.values(), ids=NTK_CALLS)
all_calls = pytest.mark.parametrize("call", ALL_CALLS.values(), ids=ALL_CALLS)


@ntk_calls
@pytest.mark.parametrize("w", [PARAMS["w"] * 1j, 1j, np.complex64(1j)], ids=type)
def test_complex_parameters(call, w):
    with pytest.raises(TypeError, match=r"params\['w'\] is complex.*only real"):
        call(lambda p, x: mlp(PARAMS, x) * jnp.abs(p["w"]).sum(), {"w": w, "b": PARAMS["b"]})


@all_calls
def test_complex_outputs(call):
    with pytest.raises(TypeError, match=r"f\(params, x\)\['y'\] is complex.*only real"):
        call(lambda p, x: {"y": mlp(p, x) * 1j}, PARAMS)


@ntk_calls
@pytest.mark.parametrize(
    "params",
    [{}, [], {"n": 3}, {"n": jnp.arange(3)}, {"key": jax.random.key(0), "f": jnp.tanh}],
    ids=["dict", "list", "int", "integers", "key"],
)
def test_no_parameter_to_differentiate(call, params):
    with pytest.raises(TypeError, match="params has no floating-point leaf"):
        call(lambda p, x: x, params)


@all_calls
@pytest.mark.parametrize("output", [None, {}, (), {"a": None}], ids=str)
def test_no_output(call, output):
    with pytest.raises(ValueError, match="f returned no array"):
        call(lambda p, x: output, PARAMS)


@ntk_calls
def test_integer_outputs_have_no_ntk(call):
    with pytest.raises(TypeError, match=r"f\(params, x\)\['label'\] is int64\[\d\]"):
        call(lambda p, x: {"label": jnp.argmax(mlp(p, x), -1)}, PARAMS)


# --- get ------------------------------------------------------------------------------------------


def test_get():
    kernel_fn = nt.empirical_kernel_fn(jax.jit(mlp), vmap_axes=0)
    ntk = oracles.naive_ntk(mlp, PARAMS, X1, X2, trace_axes=(-1,))
    nngp = oracles.naive_nngp(mlp, PARAMS, X1, X2, trace_axes=(-1,))
    assert_equal(kernel_fn(X1, X2, "ntk", PARAMS), ntk)
    assert_equal(kernel_fn(X1, X2, "nngp", PARAMS), nngp)
    for both in (
        kernel_fn(X1, X2, PARAMS),
        kernel_fn(X1, X2, None, PARAMS),
        kernel_fn(X1, X2, params=PARAMS),
        kernel_fn(X1, X2, ("nngp", "ntk"), PARAMS),
    ):
        assert type(both) is nt.EmpiricalKernel
        assert_equal(both, nt.EmpiricalKernel(nngp, ntk))
    other = kernel_fn(X1, X2, ("ntk", "nngp"), PARAMS)
    assert type(other).__name__ == "EmpiricalKernel"
    assert other._fields == ("ntk", "nngp")
    assert_equal(tuple(other), (ntk, nngp))
    alone = kernel_fn(X1, X2, ("ntk",), PARAMS)
    assert alone._fields == ("ntk",)
    assert_equal(alone.ntk, ntk)


def test_parameters_in_place_of_get_may_be_any_tree():
    w = PARAMS["w"]
    for f, params in [
        (lambda p, x: jnp.tanh(x @ p), w),
        (lambda p, x: jnp.tanh(x @ p), np.asarray(w)),
        (lambda p, x: jnp.tanh(x @ p[0]), (w,)),
        (lambda p, x: jnp.tanh(x @ p[0]) * p[1], (w, 0.7)),
        (lambda p, x: jnp.tanh(x @ p[0]), [w]),
        (lambda p, x: jnp.tanh(x * p), 0.7),
    ]:
        kernels = nt.empirical_kernel_fn(f)(X1, None, params)
        assert_equal(kernels.ntk, oracles.naive_ntk(f, params, X1, trace_axes=(-1,)))


@pytest.mark.parametrize(
    "get", ["foo", "", (), ("ntk", "ntk"), ("ntk", "foo"), ("ntk", 3), ["ntk", "ntk"], 3], ids=str
)
def test_bad_get(get):
    with pytest.raises(ValueError, match="'nngp', 'ntk'"):
        nt.empirical_kernel_fn(mlp)(X1, X2, get, PARAMS)
    with pytest.raises(ValueError, match=r"got list. The arguments are x1, x2, get, params\."):
        nt.empirical_kernel_fn(mlp)(X1, X2, [PARAMS], "ntk")


def test_params_are_missing():
    for get in ("ntk", None, ("nngp", "ntk")):
        with pytest.raises(TypeError, match="needs params"):
            nt.empirical_kernel_fn(mlp)(X1, X2, get)


# --- implementation -------------------------------------------------------------------------------


@with_vmap
@pytest.mark.parametrize("implementation", [4, -1, "auto", None, 1.5, (1,)], ids=str)
def test_unknown_implementation(make, implementation):
    names = r"AUTO = 0.*JACOBIAN_.* = 1.*NTK_VECTOR_.* = 2.*STRUCTURED_DERIVATIVES = 3"
    with pytest.raises(ValueError, match=names):
        call(make, mlp, X1, None, PARAMS, implementation=implementation)


@pytest.mark.parametrize("precision", ["half", 3, jax.lax.Precision.HIGH], ids=str)
@pytest.mark.parametrize("make", [nt.empirical_ntk_fn, nt.empirical_nngp_fn])
def test_unknown_precision(make, precision):
    with pytest.raises(ValueError, match="precision must be None or a string"):
        make(mlp, precision=precision)


def test_implementations():
    assert [(i.name, int(i)) for i in nt.NtkImplementation] == [
        ("AUTO", 0),
        ("JACOBIAN_CONTRACTION", 1),
        ("NTK_VECTOR_PRODUCTS", 2),
        ("STRUCTURED_DERIVATIVES", 3),
    ]
    expected = oracles.naive_ntk(mlp, PARAMS, X1, X2, trace_axes=(-1,))
    for implementation in (2, np.int64(2), nt.NtkImplementation.NTK_VECTOR_PRODUCTS):
        ntk_fn = nt.empirical_ntk_fn(mlp, vmap_axes=0, implementation=implementation)
        assert_equal(jax.jit(ntk_fn)(X1, X2, PARAMS), expected)


def test_positional_arguments_are_those_of_neural_tangents():
    kernel_fn = nt.empirical_kernel_fn(mlp, (), (-1,), 0, 2)
    assert kernel_fn(X1, X2, "ntk", PARAMS).shape == (3, 2, 2)
    assert nt.empirical_ntk_fn(mlp, (), (-1,), 0, 2)(X1, X2, PARAMS).shape == (3, 2, 2)
    assert nt.empirical_nngp_fn(mlp, (), (-1,))(X1, X2, PARAMS).shape == (3, 2, 2)


# --- the vector of an NTK-vector product ----------------------------------------------------------


def test_vector_that_does_not_fit():
    def f(params, x):
        return {"y": mlp(params, x), "z": mlp(params, x)[:, 0]}

    ntk_vp = nt.empirical_ntk_vp_fn(f, X1, X2, PARAMS)
    y, z = uniform(1, 2, 2), uniform(2, 2)
    with pytest.raises(ValueError, match=r"\['y'\].*\(3, 2\).*\(2, 2\)"):
        ntk_vp({"y": uniform(1, 3, 2), "z": z})
    with pytest.raises(ValueError, match=r"\['z'\]"):
        ntk_vp({"y": y})
    with pytest.raises(ValueError, match="tree structure"):
        ntk_vp(y)
    product = ntk_vp({"y": np.asarray(y), "z": np.asarray(z)})
    assert jax.tree.map(jnp.shape, product) == {"y": (3, 2), "z": (3,)}


# --- warnings -------------------------------------------------------------------------------------


def one_output(params, x):
    return mlp(params, x)[:, 0]


@pytest.mark.parametrize(
    "make, options",
    [
        (nt.empirical_ntk_fn, {}),
        (nt.empirical_ntk_fn, {"vmap_axes": 0}),
        (nt.empirical_ntk_fn, {"vmap_axes": 0, "implementation": 2}),
        (nt.empirical_nngp_fn, {}),
        (nt.empirical_kernel_fn, {}),
        (nt.empirical_kernel_fn, {"vmap_axes": 0}),
    ],
)
def test_tracing_over_the_batch_warns_once(make, options):
    kernel_fn = make(one_output, **options)
    with pytest.warns(UserWarning, match=r"trace_axes=\(\)") as record:
        first = kernel_fn(X1, None, PARAMS)
    assert len(record) == 1
    assert record[0].filename == __file__
    second = kernel_fn(X1, None, PARAMS)  # a warning would be an error here
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert jax.tree.map(jnp.shape, first) == jax.tree.map(lambda _: (), first)


@kernels
def test_axes_that_leave_the_batch_do_not_warn(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(make, mlp, X1, None, PARAMS)
        call(make, one_output, X1, None, PARAMS, trace_axes=())
        call(make, one_output, X1, None, PARAMS, trace_axes=(), diagonal_axes=(0,))


# --- the check of vmap_axes -----------------------------------------------------------------------


def batch_norm(params, x):
    h = x @ params["w"] + params["b"]
    h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5)
    return h @ params["v"]


def one_key_dropout(params, x):
    h = jnp.tanh(x @ params["w"])
    return (h * jax.random.bernoulli(jax.random.key(3), 0.5, h.shape)) @ params["v"]


def mean_of_batch(params, x):
    return mlp(params, x) - 1e-2 * mlp(params, x).mean(0)


def previous_example(params, x):
    return jnp.roll(mlp(params, x), 1, 0)


def length_of_batch(params, x):
    return mlp(params, x) / len(x)


MIXING = (batch_norm, one_key_dropout, mean_of_batch, previous_example, length_of_batch)
MIXES = r"mixes examples.*vmap_axes=None.*check_vmap=False"


@half(make=WITH_VMAP, f=MIXING, dtype=("float32", "float64"))
def test_examples_that_are_mixed_are_an_error(make, f, dtype):
    params, x1, x2 = mlp_params(dtype), X1.astype(dtype), X2.astype(dtype)
    with pytest.raises(ValueError, match=MIXES):
        call(make, f, x1, None, params, vmap_axes=0)
    # A single example cannot be mixed; the other side can.
    with pytest.raises(ValueError, match=MIXES):
        call(make, f, x1[:1], x2, params, vmap_axes=0)


@pytest.mark.parametrize(
    "f",
    [pytest.param(f, marks=() if f in MIXING[1:3] else pytest.mark.full) for f in MIXING],
    ids=lambda f: f.__name__,
)
def test_the_check_is_not_under_jit_and_can_be_turned_off(f):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(nt.empirical_ntk_fn(f, vmap_axes=0))(X1, None, PARAMS)
        nt.empirical_ntk_fn(f, vmap_axes=0, check_vmap=False)(X1, None, PARAMS)
        nt.empirical_kernel_fn(f, vmap_axes=0, check_vmap=False)(X1, None, "ntk", PARAMS)
        nt.empirical_ntk_fn(f)(X1, None, PARAMS)  # right: the batch is one example


def test_the_output_that_is_mixed_is_named():
    def f(params, x):
        return {"good": mlp(params, x), "bad": batch_norm(params, x)}

    with pytest.raises(ValueError, match=r"\['bad'\] for two examples"):
        nt.empirical_ntk_fn(f, vmap_axes=0)(X1, None, PARAMS)


def test_mixing_along_other_axes_and_in_keyword_arguments():
    def f(params, x, pattern):
        return mlp(params, x.T).T * pattern.mean()

    vmap_axes = (1, 1, {"pattern": 0})
    with pytest.raises(ValueError, match=MIXES):
        nt.empirical_ntk_fn(f, (0,), vmap_axes=vmap_axes)(
            X1.T, None, PARAMS, pattern=uniform(7, 3, 2)
        )


def attention(params, x):
    scores = jnp.einsum("nti,nsi->nts", x @ params["q"], x @ params["q"])
    return jax.nn.softmax(scores) @ x @ params["v"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_well_behaved_functions_pass(dtype):
    """Rounding that depends on the size of the batch is no mixing."""
    wide = mlp_params(dtype, 100, 200, 3)
    x = uniform(6, 8, 100, dtype=dtype)
    nt.empirical_ntk_fn(jax.jit(mlp), vmap_axes=0)(x, None, wide)
    params = {"q": uniform(1, 6, 6, dtype=dtype), "v": uniform(2, 6, 2, dtype=dtype)}
    x = uniform(7, 4, 5, 6, dtype=dtype)
    nt.empirical_ntk_fn(jax.jit(attention), vmap_axes=0)(x, None, params)


def test_rounding_to_short_floats_inside_is_no_mixing():
    """Sums of two examples may be ordered otherwise than those of one."""

    def f(w, x):
        noise = 1 + 1e-3 * jnp.arange(x.shape[0], dtype=jnp.float32)[:, None]
        return ((x @ w).astype(jnp.bfloat16) * noise.astype(jnp.bfloat16)).astype(jnp.float64)

    w, x = uniform(0, 4, 3), uniform(1, 2, 4)
    assert nt.empirical_ntk_fn(f, vmap_axes=0)(x, None, w).shape == (2, 2)


def test_cancellation_is_no_mixing():
    @jax.jit
    def f(params, x):
        y = jax.nn.log_softmax(100 * mlp(params, x))
        return y - y.mean(-1, keepdims=True)

    params = mlp_params("float32", 100, 200, 3)
    nt.empirical_ntk_fn(f, vmap_axes=0)(uniform(6, 8, 100, dtype="float32"), None, params)


def test_infinities_that_agree_pass():
    def f(params, x):
        return jnp.where(x[:, :2] > 0, mlp(params, x), -jnp.inf)

    nt.empirical_ntk_fn(f, vmap_axes=0)(X1, None, PARAMS)


def test_a_key_for_each_example_passes():
    def f(params, x):
        mask = jax.vmap(lambda k: jax.random.bernoulli(k, 0.5, (5,)))(x["key"])
        return (jnp.tanh(x["x"] @ params["w"]) * mask) @ params["v"]

    x = {"x": X1, "key": jax.random.split(jax.random.key(1), 3)}
    actual = nt.empirical_ntk_fn(f, vmap_axes=0)(x, None, PARAMS)
    assert_equal(actual, oracles.naive_ntk(f, PARAMS, x, trace_axes=(-1,)))


def counting(f):
    """`f`, and how often it was called as a list."""
    calls = []

    @functools.wraps(f)
    def counted(*args, **kwargs):
        calls.append(None)
        return f(*args, **kwargs)

    return counted, calls


def test_the_check_is_made_once_for_each_shape():
    f, calls = counting(mlp)
    unchecked = nt.empirical_ntk_fn(f, vmap_axes=0, check_vmap=False)
    ntk_fn = nt.empirical_ntk_fn(f, vmap_axes=0)

    def count(fn, *args):
        calls.clear()
        fn(*args)
        return len(calls)

    plain = count(unchecked, X1, None, PARAMS)
    plain_pair = count(unchecked, X1, X2, PARAMS)
    assert count(ntk_fn, X1, None, PARAMS) > plain
    assert count(ntk_fn, X1 * 0.5, None, PARAMS) == 0  # compiled
    assert count(ntk_fn, X1, X2, PARAMS) > plain_pair  # the shape of x2 is new
    assert count(ntk_fn, X2, X1, PARAMS) > plain_pair  # so is their order
    assert count(ntk_fn, X2, X1, PARAMS) == 0


def test_no_check_under_jit():
    f, calls = counting(mlp)
    counts = []
    for check_vmap in (True, False):
        for vmap_axes, wrap in ((None, lambda fn: fn), (0, jax.jit)):
            calls.clear()
            wrap(nt.empirical_ntk_fn(f, vmap_axes=vmap_axes, check_vmap=check_vmap))(
                X1, None, PARAMS
            )
            counts.append(len(calls))
    assert counts[1] == counts[3] < counts[0]  # without a batch axis the factors are checked


def test_a_traced_call_does_not_count_as_checked():
    ntk_fn = nt.empirical_ntk_fn(batch_norm, vmap_axes=0)
    jax.jit(ntk_fn)(X1, None, PARAMS)
    for _ in range(2):  # nor does a call that failed
        with pytest.raises(ValueError, match=MIXES):
            ntk_fn(X1, None, PARAMS)


# --- exceptions of f ------------------------------------------------------------------------------


class Boom(Exception):
    pass


PUBLIC_CALLS = {
    f"ntk-{implementation}-{vmap_axes}": lambda f, i=implementation, v=vmap_axes: (
        nt.empirical_ntk_fn(f, (), (), v, i)(X1, X2, PARAMS)
    )
    for implementation in (0, 1, 2)
    for vmap_axes in (None, 0)
} | {
    "nngp": lambda f: nt.empirical_nngp_fn(f)(X1, None, PARAMS),
    "kernel": lambda f: nt.empirical_kernel_fn(f, vmap_axes=0)(X1, None, PARAMS),
    "vp": lambda f: nt.empirical_ntk_vp_fn(f, X1, None, PARAMS)(uniform(1, 3, 2)),
    "linearize": lambda f: nt.linearize(f, PARAMS)(mlp_params(), X1),
    "taylor-0": lambda f: nt.taylor_expand(f, PARAMS, 0)(mlp_params(), X1),
    "taylor-1": lambda f: nt.taylor_expand(f, PARAMS, 1)(mlp_params(), X1),
    "taylor-3": lambda f: nt.taylor_expand(f, PARAMS, 3)(mlp_params(), X1),
}


@half(call=PUBLIC_CALLS.values(), kind=(Boom, ValueError, TypeError, NotImplementedError, KeyError))
def test_an_exception_of_f_passes_unchanged(call, kind):
    error = kind("mine")

    def f(params, x):
        raise error

    with pytest.raises(kind) as info:
        call(f)
    assert info.value is error
    assert info.value.args == ("mine",)


@half(call=PUBLIC_CALLS.values(), kind=(Boom, ValueError))
def test_an_exception_in_a_later_call_of_f_passes_unchanged(call, kind):
    """At every one of the calls of `f` that the library makes."""
    f, calls = counting(mlp)
    call(f)
    number = len(calls)

    for k in range(number):
        error, calls_left = kind(f"call {k}"), iter(range(k))

        def g(params, x, error=error, calls_left=calls_left):
            if next(calls_left, None) is None:
                raise error
            return mlp(params, x)

        with pytest.raises(kind) as info:
            call(g)
        assert info.value is error


@pytest.mark.parametrize("call", PUBLIC_CALLS.values(), ids=PUBLIC_CALLS)
def test_an_error_of_jax_inside_f_passes(call):
    with pytest.raises(TypeError, match="dot_general requires contracting dimensions"):
        call(lambda params, x: x @ params["v"])


# --- calls that are compiled ----------------------------------------------------------------------


def test_values_that_are_equal_but_not_the_same_compile_apart():
    def f(w, x, s):
        return x @ w * (5.0 if s is True else 1.0)

    ntk_fn = nt.empirical_ntk_fn(f, vmap_axes=0)
    w, x = uniform(0, 4, 2), X1
    one, true = (ntk_fn(x, None, w, s=s) for s in (1, True))
    np.testing.assert_allclose(true, 25 * one)


SCALED = (
    nt.empirical_ntk_fn,
    nt.empirical_nngp_fn,
    lambda f, **options: nt.batch(nt.empirical_ntk_fn(f, **options), 2, memory="1GiB"),
)


@pytest.mark.parametrize("make", SCALED[:2])
@pytest.mark.parametrize("number", [float, complex, np.float64])
def test_numbers_are_traced(make, number):
    """Ten values are one program; the numbers are of weak type, as under `jit`."""

    def f(w, x, scale):
        y = (x["x"] @ w) * jnp.abs(x["s"] * scale)
        assert y.dtype == jnp.float32 or number is np.float64
        return y

    f, calls = counting(f)
    w, x = uniform(0, 4, 2, dtype="float32"), X1.astype("float32")
    fn = make(f, trace_axes=(), **({} if make is nt.empirical_nngp_fn else {"vmap_axes": None}))
    first = fn({"x": x, "s": number(2.0)}, None, w, scale=number(3.0))
    number_of_calls = len(calls)
    for k in range(1, 11):
        got = fn({"x": x, "s": number(k)}, None, w, scale=number(0.5))
        np.testing.assert_allclose(got, first * (k * 0.5 / 6) ** 2, rtol=1e-5)
    assert len(calls) == number_of_calls


VALUES = {
    "if": lambda s: 2.0 if s > 0.5 else 1.0,
    "int": lambda s: float(int(s * 10)),
    "numpy": lambda s: float(np.sqrt(s)),
    "range": lambda s: float(len(range(round(s * 10)))),
    "key": lambda s: {0.25: 1.0, 1.0: 2.0}[s],
    "static": lambda s: jax.jit(lambda s: s * 2.0, static_argnums=0)(s),
}


@functools.cache
def kernel_of_a_layer(make):
    return make(lambda w, x: jnp.tanh(x @ w), trace_axes=())(X1, None, uniform(0, 4, 2))


@half(make=SCALED, value=VALUES)
def test_numbers_that_f_wants_as_values(make, value):
    """Then each is compiled for itself, and none runs operation by operation."""
    f, calls = counting(lambda w, x, s: jnp.tanh(x @ w) * VALUES[value](s))
    fn, w = make(f, trace_axes=()), uniform(0, 4, 2)
    for s in (0.25, 1.0, 0.25):
        calls.clear()
        plain = kernel_of_a_layer(make)
        np.testing.assert_allclose(fn(X1, None, w, s=s), plain * VALUES[value](s) ** 2)
    if make is not SCALED[2]:
        assert not calls


def test_numbers_are_arrays_after_a_failure_of_another_cause():
    f, calls = counting(lambda w, x, s: jnp.sqrt(s) * (x @ w))
    ntk_fn, w = nt.empirical_ntk_fn(f, vmap_axes=0, check_vmap=False), uniform(0, 4, 2)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        ntk_fn(X1, None, w, s=-1.0)
    ntk_fn(X1, None, w, s=0.5)
    calls.clear()
    ntk_fn(X1, None, w, s=0.7)
    assert not calls


def test_the_check_is_made_for_each_value_that_f_asks_for():
    def f(w, x, rate):
        return (x - rate * x.mean(0)) @ w if rate else x @ w

    ntk_fn, w = nt.empirical_ntk_fn(f, vmap_axes=0), uniform(0, 4, 2)
    ntk_fn(X1, None, w, rate=0.0)
    with pytest.raises(ValueError, match="mixes examples"):
        ntk_fn(X1, None, w, rate=0.5)


def test_integers_and_flags_choose_between_programs():
    def f(w, x, axis, train, mode):
        assert isinstance(axis, int) and isinstance(train, bool)
        y = jnp.flip(x @ w, axis) if train else x @ w
        return y * (2 if mode == "twice" else 1)

    f, calls = counting(f)
    for make in SCALED[:2]:
        fn, w = make(f, trace_axes=()), uniform(0, 4, 2)
        for axis, train, mode in ((1, True, "twice"), (1, False, "once"), (1, True, "twice")):
            calls.clear()
            fn(X1, None, w, axis=axis, train=train, mode=mode)
        assert not calls


class Scale:
    value = 1.0


@half(get=("nngp", "ntk", ("nngp", "ntk")), implementation=(0, 1))
def test_what_f_closes_over_is_read_when_it_is_compiled(get, implementation):
    """For both kernels alike, as under `jit`: for other shapes it is read anew."""
    scale = Scale()

    def f(w, x):
        return jnp.tanh(x @ w) * scale.value

    w = uniform(0, 4, 2)
    kernel_fn = nt.empirical_kernel_fn(f, (), vmap_axes=0, implementation=implementation)
    batched = nt.batch(kernel_fn, 2, memory="1GiB")
    before = {fn: fn(X1, None, get, w) for fn in (kernel_fn, batched)}
    scale.value = 3.0
    for fn, kernels in before.items():
        jax.tree.map(np.testing.assert_array_equal, fn(X1, None, get, w), kernels)
    other = uniform(6, 5, 4)
    got = kernel_fn(other, None, get, w)
    expected = nt.empirical_kernel_fn(f, (), vmap_axes=0)(other, None, get, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, expected)


def test_arrays_may_be_used_as_values():
    w = uniform(0, 4, 2)
    expected = oracles.naive_ntk(lambda w, x: x @ w, w, X1)

    def flagged(w, x, flag):
        return x @ w if flag else w

    for flag in (True, np.bool_(True), jnp.array(True)):
        ntk_fn = nt.empirical_ntk_fn(flagged, (), vmap_axes=0)
        for _ in range(2):
            assert_equal(ntk_fn(X1, None, w, flag=flag), expected)

    def sized(params, x):
        return (x @ params["w"]).reshape(-1, params["n"])

    assert_equal(nt.empirical_ntk_fn(sized, ())(X1, None, {"w": w, "n": np.int64(2)}), expected)


def centred(w, x, train=True):
    return (x - x.mean(0)) @ w if train else x @ w


def test_the_check_sees_every_mode_of_a_function():
    ntk_fn = nt.empirical_ntk_fn(centred, vmap_axes=0)
    w = uniform(0, 4, 2)
    ntk_fn(X1, None, w, train=False)
    with pytest.raises(ValueError, match="mixes examples"):
        ntk_fn(X1, None, w, train=True)


def test_the_check_sees_below_a_head_of_zeros_and_past_equal_examples():
    def headed(params, x):
        return jnp.tanh(centred(params["w"], x)) @ params["head"]

    params = {"w": uniform(0, 4, 3), "head": np.zeros((3, 2))}
    with pytest.raises(ValueError, match="mixes examples"):
        nt.empirical_ntk_fn(headed, vmap_axes=0)(X1, None, params)
    x = np.concatenate([X1, X1[:1]])  # the last is the first
    with pytest.raises(ValueError, match="mixes examples"):
        nt.empirical_ntk_fn(centred, vmap_axes=0)(x, None, uniform(0, 4, 2))


@pytest.mark.parametrize(
    "wrap", [lambda k: (k, jax.random.key(1)), lambda k: {"mask": k}], ids=["pair", "tree"]
)
def test_keys_in_pairs_and_trees(wrap):
    def f(w, x, rng):
        key = rng["mask"] if isinstance(rng, dict) else rng
        return x @ w * jax.random.uniform(key, (2,))

    w, rng = uniform(0, 4, 2), wrap(jax.random.key(0))
    second = rng[1] if isinstance(rng, tuple) else jax.random.fold_in(rng["mask"], 1)
    kernel = nt.empirical_ntk_fn(f, ())(X1, X2, w, rng=rng)
    first = jax.random.key(0)
    assert_equal(
        kernel,
        oracles.naive_ntk(f, w, X1, X2, kwargs1={"rng": first}, kwargs2={"rng": second}),
    )


def test_a_seed_is_no_key():
    with pytest.raises(TypeError, match="rng must be a key"):
        nt.empirical_ntk_fn(lambda w, x, rng: x @ w)(X1, X2, uniform(0, 4, 2), rng=0)


@pytest.mark.parametrize("trace_axes", [None, 1.5])
def test_axes_that_are_no_integers(trace_axes):
    with pytest.raises(ValueError, match="trace_axes must be an int or a sequence of ints"):
        nt.empirical_nngp_fn(mlp, trace_axes)(X1, None, PARAMS)


# --- what was probably meant otherwise ------------------------------------------------------------


def notes_on(error):
    """What is said of where an exception of `f` came from; JAX may add notes of its own."""
    return [note for note in error.__notes__ if note.startswith("f(params, x) was evaluated")]


@kernels
@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
def test_arguments_in_another_order(make, wrap):
    with pytest.raises(ValueError, match=r"same tree structure.*x1, x2, params, in this order"):
        wrap(make(mlp))(X1, PARAMS, X2)
    if make is not nt.empirical_nngp_fn:
        with pytest.raises(TypeError, match=r"no floating-point leaf.*x1, x2, params, in this"):
            wrap(make(mlp))(PARAMS, None, jnp.arange(3))
    with pytest.raises(TypeError, match="dot_general") as info:  # one tree: f itself refuses
        wrap(make(lambda w, x: jnp.dot(x, w)))(X1, uniform(0, 4, 2), X2)
    (note,) = notes_on(info.value)
    assert "x1, of shapes float64[3, 4]" in note and "x1, x2, params, in this order" in note


@kernels
@pytest.mark.parametrize("vmap_axes", [None, 0])
def test_an_input_that_f_refuses_is_told(make, vmap_axes):
    """Which one, with its shapes; the exception is that of `f`."""
    options = {} if make is nt.empirical_nngp_fn else {"vmap_axes": vmap_axes}

    def f(params, x):
        return mlp(params, x["a"])

    for name, x1, x2 in (("x1", uniform(4, 3, 5), X2), ("x2", X1, uniform(4, 3, 5))):
        with pytest.raises(TypeError, match="dot_general") as info:
            make(f, **options)({"a": x1}, {"a": x2}, PARAMS)
        (note,) = notes_on(info.value)
        assert f"x = {name}, of shapes {{a: float64[3, 5]}}" in note


def test_get_under_jit_is_static():
    """JAX refuses a string before it calls anything, and says what to do."""
    with pytest.raises(TypeError, match=r"(?s)path get.*static_argnames"):
        jax.jit(nt.empirical_kernel_fn(mlp))(X1, None, "ntk", PARAMS)


SPLIT = "carry is a tuple of two: its first entry goes to x1 .* pass a list or a namedtuple"


@kernels
def test_a_pair_without_x2_warns_once(make):
    def f(params, x, carry, rng=None):
        return mlp(params, x) * carry[0] + carry[1]

    fn, carry = make(f), (uniform(1, 3, 2), uniform(2, 3, 2))
    with pytest.warns(UserWarning, match=SPLIT) as record:
        fn(X1, None, PARAMS, carry=carry)
        fn(X1 * 2, None, PARAMS, carry=carry)
    assert len(record) == 1
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(f)(X1, X1, PARAMS, carry=carry)  # one for each side
        make(f)(X1, None, PARAMS, carry=list(carry))
        make(f)(X1, None, PARAMS, carry=list(carry), rng=(jax.random.key(0), jax.random.key(1)))


def test_a_pair_without_x2_warns_in_blocks_and_products():
    def f(params, x, carry):
        return mlp(params, x) * carry[0] + carry[1]

    batched = nt.batch(nt.empirical_ntk_fn(f), 2)
    with pytest.warns(UserWarning, match=SPLIT):
        batched(X1, None, PARAMS, carry=(uniform(1, 2), uniform(2, 2)))
    with pytest.warns(UserWarning, match=SPLIT):
        nt.empirical_ntk_vp_fn(f, X1, None, PARAMS, carry=(uniform(1, 2), uniform(2, 2)))


def test_batch_statistics_among_the_parameters_warn_once():
    params = {"params": PARAMS, "batch_stats": {"bn": {"mean": uniform(1, 2)}}}

    def f(p, x):
        return mlp(p["params"], x) - p["batch_stats"]["bn"]["mean"]

    said = r"params\['batch_stats'\]\['bn'\]\['mean'\] looks like a batch statistic"
    for make in WITH_VMAP:
        fn = make(f)
        with pytest.warns(UserWarning, match=said) as record:
            fn(X1, None, params)
            fn(X1, X2, params)
        assert len(record) == 1
    for call in (
        lambda: nt.linearize(f, params),
        lambda: nt.empirical_ntk_vp_fn(f, X1, X2, params),
    ):
        with pytest.warns(UserWarning, match=said):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nt.empirical_nngp_fn(f)(X1, None, params)  # nothing is differentiated
        nt.empirical_ntk_fn(lambda p, x: f(params | {"params": p}, x))(X1, None, PARAMS)


def test_statistics_of_flax_nnx_are_known_by_their_type():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0))
    graphdef, everything = nnx.split(model)
    for f, params in (
        (lambda model, x: model(x), model),
        (lambda p, x: nnx.merge(graphdef, p)(x), everything),
    ):
        with pytest.warns(UserWarning, match=r"params\S*mean\S* looks like a batch statistic"):
            nt.empirical_ntk_fn(f, vmap_axes=0)(X1, None, params)
    _, params, rest = nnx.split(model, nnx.Param, ...)
    f = lambda p, x: nnx.merge(graphdef, p, rest, copy=True)(x)  # noqa: E731
    nt.empirical_ntk_fn(f, vmap_axes=0)(X1, None, params)  # warnings are errors


def masked(p, x, mask, function, mode):
    return function(x @ p) * mask[:, None]


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("check", [True, False])
def test_an_argument_whose_axis_was_forgotten(n, check):
    w, x, mask = uniform(0, 4, 2), uniform(1, n, 4), uniform(2, n)
    ntk_fn = nt.empirical_ntk_fn(masked, vmap_axes=0, check_vmap=check)
    with pytest.raises((TypeError, ValueError)) as raised:
        ntk_fn(x, None, w, mask=mask, function=jnp.tanh, mode="arguments that are no arrays")
    said = "".join(raised.value.__notes__)
    assert f"of the {n} examples of x1" in said
    assert f"mask, float64[{n}], has no axis there" in said and "dict(mask=0)" in said


@jax.tree_util.register_pytree_with_keys_class
class OnePath:
    """A container whose leaves have the same path."""

    def __init__(self, *leaves):
        self.leaves = leaves

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("w"), leaf) for leaf in self.leaves], None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


def test_leaves_of_one_path():
    def f(p, x):
        return OnePath(x @ p.leaves[0] + jnp.sin(x @ p.leaves[1]), x @ p.leaves[1])

    p, new = (OnePath(uniform(seed, 4, 2), uniform(seed + 1, 4, 2)) for seed in (0, 2))
    steps = [b - a for a, b in zip(p.leaves, new.leaves, strict=True)]
    expected = jax.jvp(lambda p: f(p, X1), (p,), (OnePath(*steps),))
    found = nt.linearize(f, p)(new, X1)
    for a, y, dy in zip(found.leaves, *(t.leaves for t in expected), strict=True):
        assert_equal(a, np.asarray(y + dy))
    ntk_fn = nt.empirical_ntk_fn(f, vmap_axes=0)
    assert list(ntk_fn.check(X1, p)) == ["params.w", "params.w (2)"]
    kernels = ntk_fn(X1, None, p).leaves
    assert_equal(kernels, oracles.naive_ntk(f, p, X1, trace_axes=(-1,)).leaves)


class Wrapped:
    """A value that JAX turns into an array, without saying so by a dtype."""

    def __init__(self, array):
        self.array = array

    def __jax_array__(self):
        return self.array


def test_parameters_of_another_type():
    params = {"w": Wrapped(PARAMS["w"]), "v": PARAMS["v"]}
    f = lambda p, x: jnp.tanh(x @ p["w"].array) @ p["v"]  # noqa: E731
    for call in (lambda: nt.empirical_ntk_fn(f)(X1, None, params), lambda: nt.linearize(f, params)):
        with pytest.raises(TypeError, match=r"params\['w'\] is a Wrapped, a type of its own"):
            call()


def test_a_ref_that_f_closes_over():
    scale, w = jax.new_ref(jnp.array(2.0)), PARAMS["w"]
    for ntk_fn in (
        nt.empirical_ntk_fn(lambda w, x: jnp.sin(x @ w) * scale[...], vmap_axes=0),
        nt.batch(nt.empirical_ntk_fn(lambda w, x: jnp.sin(x @ w) * scale[...], vmap_axes=0), 2),
    ):
        expected = oracles.naive_ntk(lambda w, x: jnp.sin(x @ w), w, X1, trace_axes=(-1,))
        assert_equal(ntk_fn(X1, None, w), 4 * expected)


def test_the_check_uses_keys_again():
    def f(w, x, rng):
        return (x @ w) * jax.random.bernoulli(rng, 0.5, (5,))

    with jax.debug_key_reuse(True):
        nt.empirical_ntk_fn(f)(X1, None, PARAMS["w"], rng=jax.random.key(0))


def test_expansions_can_be_sent_to_another_process():
    cloudpickle = pytest.importorskip("cloudpickle")
    expansion = nt.linearize(lambda w, x: jnp.tanh(x @ w), PARAMS["w"])
    sent = cloudpickle.loads(cloudpickle.dumps(expansion))
    new = PARAMS["w"] + 1
    assert_equal(sent(new, X1), np.asarray(expansion(new, X1)))


def test_explain_of_both_kernels():
    kernel_fn = nt.empirical_kernel_fn(mlp, vmap_axes=0, memory="1GiB")
    plan = str(kernel_fn.ntk_fn.explain(X1, X2, PARAMS))
    for asked in (("ntk", PARAMS), (None, PARAMS), (("nngp", "ntk"), PARAMS), (PARAMS,)):
        assert str(kernel_fn.explain(X1, X2, *asked)) == plan
    with pytest.raises(ValueError, match="NNGP has no plan"):
        kernel_fn.explain(X1, X2, "nngp", PARAMS)
    with pytest.raises(TypeError, match="needs params"):
        kernel_fn.explain(X1, X2, "ntk")


def test_an_init_fn_of_another_kind():
    class Linen:
        """The calls of a module of Flax Linen."""

        def init(self, key, x):
            return {"params": {"w": jax.random.normal(key, (x.shape[-1], 2))}}

        def apply(self, variables, x, *, rngs=None, **kwargs):
            assert not kwargs, f"unexpected {kwargs}"
            return x @ variables["params"]["w"]

    model, key = Linen(), jax.random.key(0)
    with pytest.raises(AttributeError) as info:
        nt.monte_carlo_kernel_fn(model.init, model.apply, key, 1)(X1, None, "ntk")
    said = "".join(info.value.__notes__)
    assert "input_shape was (3, 4)" in said
    assert "(None, model.init(key, jnp.zeros(shape)))" in said
    with pytest.raises(TypeError, match=r"returned dict, no pair.*\(None, model.init"):
        init = lambda key, shape: model.init(key, jnp.zeros(shape))  # noqa: E731
        nt.monte_carlo_kernel_fn(init, model.apply, key, 1)(X1, None, "ntk")

    def wrapped(key, shape):
        return None, model.init(key, jnp.zeros(shape))

    kernel = nt.monte_carlo_kernel_fn(wrapped, model.apply, key, 1, vmap_axes=0)(X1, None, "ntk")
    assert_equal(kernel, np.asarray(X1 @ X1.T))


# --- vmap_axes=None where vmap_axes=0 would do ----------------------------------------------------

MANY = uniform(4, 8, 4)


@pytest.mark.parametrize(
    "f, x, seen",
    [
        (mlp, MANY, True),
        (lambda p, x: {"y": mlp(p, x["a"]) * x["b"][:, None]}, {"a": MANY, "b": MANY[:, 0]}, True),
        (mlp, MANY[:7], False),  # too few to matter
        (lambda p, x: mlp(p, x - x.mean(0)), MANY, False),
        (lambda p, x: mlp(p, x - x.mean(0)), jnp.stack([MANY[0]] * 8), False),  # cannot be told
        (lambda p, x: mlp(p, x).T, MANY, False),
        (lambda p, x: mlp(p, x).reshape(2, 8), MANY, False),
        (lambda p, x: mlp(p, x).sum(0), MANY, False),
        (lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"] * uniform(1, 8, 1), MANY, False),
        (lambda p, x: mlp(p, x[0]) + x[1].sum(), (MANY, uniform(1, 9)), False),
    ],
)
def test_independent_rows_are_pointed_out_once(f, x, seen, caplog):
    ntk_fn = nt.empirical_ntk_fn(f, (), check_vmap=True)
    for _ in range(2):
        ntk_fn(x, None, PARAMS)
    lines = [r.message for r in caplog.records if "axis 0 independently" in r.message]
    assert len(lines) == seen


def test_independent_rows_are_not_pointed_out_within_a_trace(caplog):
    """Of values that are there, though what is made of them is not: a mixture would not be seen."""
    ntk_fn = nt.empirical_ntk_fn(lambda p, x: mlp(p, x - x.mean(0)), ())
    jax.jit(lambda s: s * ntk_fn(MANY, None, PARAMS))(1.0)
    assert not caplog.records


def test_independent_rows_are_pointed_out_by_values_alone(caplog):
    f, calls = counting(mlp)
    jax.jit(nt.empirical_ntk_fn(f, ()))(MANY, None, PARAMS)
    plain = len(calls)
    calls.clear()
    nt.empirical_ntk_fn(f, (), check_vmap=False)(MANY, None, PARAMS)
    nt.empirical_ntk_fn(f, (), vmap_axes=0)(MANY, None, PARAMS)
    assert not caplog.records
    calls.clear()
    nt.empirical_ntk_fn(f, ())(MANY, None, PARAMS)
    # Twice traced, six times evaluated, twice traced for the check of factors.
    assert caplog.records and len(calls) == plain + 8 + 2
