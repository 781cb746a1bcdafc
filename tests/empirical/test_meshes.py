"""Kernels inside `shard_map` and on Explicit meshes equal those without a mesh."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support import cases, oracles
from support.arrays import assert_equal, uniform
from support.options import half

import tangax as nt

DEVICES = 4


def network(params, x):
    h = jnp.tanh(x @ params["a"].T + params["b"])
    h = h * jnp.sin(params["g"])
    return lax.scan(lambda h, w: (h + jnp.tanh(h @ w), None), h, params["layers"])[0][:, :2]


PARAMS = {
    "a": uniform(0, 5, 4),
    "b": uniform(1, 5),
    "g": uniform(2, 5),
    "layers": uniform(3, 2, 5, 5),
}
X = uniform(4, 8, 4)


def mesh_of(kind):
    return jax.make_mesh((DEVICES,), ("d",), axis_types=(kind,))


@pytest.fixture(scope="module")
def kernel():
    return oracles.naive_ntk(network, PARAMS, X)


@half(
    implementation=(0, 1, 3, 2),
    varying=[(False, True), (True, True), (False, False)],
    memory=(None, 1),
)
def test_rows_inside_shard_map(kernel, implementation, varying, memory):
    vary, check = varying
    if memory and implementation in (1, 2):
        pytest.skip("it has no blocks")
    ntk_fn = nt.empirical_ntk_fn(
        network, (), vmap_axes=0, implementation=implementation, memory=memory
    )

    def rows(params, x1, x2):
        params = jax.tree.map(lambda w: lax.pcast(w, "d", to="varying"), params) if vary else params
        return ntk_fn(x1, x2, params)

    mapped = jax.shard_map(
        rows,
        mesh=mesh_of(AxisType.Auto),
        in_specs=(P(), P("d"), P()),
        out_specs=P("d"),
        check_vma=check,
    )
    assert_equal(jax.jit(mapped)(PARAMS, X, X), kernel)


def test_own_kernels_inside_shard_map(kernel):
    ntk_fn = nt.empirical_ntk_fn(network, (), vmap_axes=0)
    mapped = jax.shard_map(
        lambda params, x: ntk_fn(x, None, params)[None],
        mesh=mesh_of(AxisType.Auto),
        in_specs=(P(), P("d")),
        out_specs=P("d"),
    )
    each = len(X) // DEVICES
    for a, own in enumerate(jax.jit(mapped)(PARAMS, X)):
        here = slice(a * each, (a + 1) * each)
        assert_equal(own, kernel[here, here])


@half(implementation=(0, 1, 2, 3), jit=(True, False))
def test_explicit_meshes(kernel, implementation, jit):
    mesh = mesh_of(AxisType.Explicit)
    ntk_fn = nt.empirical_ntk_fn(network, (), vmap_axes=0, implementation=implementation)
    ntk_fn = jax.jit(ntk_fn) if jit else ntk_fn
    x = jax.device_put(X, NamedSharding(mesh, P("d")))
    params = jax.device_put(PARAMS, NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        assert_equal(ntk_fn(x, None, params), kernel)
        assert_equal(ntk_fn(x, x, params), kernel)


def test_factors_and_both_kernels_on_explicit_meshes(kernel):
    mesh = mesh_of(AxisType.Explicit)
    kernel_fn = nt.empirical_kernel_fn(network, (), vmap_axes=0)
    ntk_fn = kernel_fn.ntk_fn
    x = jax.device_put(X, NamedSharding(mesh, P("d")))
    params = jax.device_put(PARAMS, NamedSharding(mesh, P()))
    both = kernel_fn(x, None, None, params)
    assert_equal(both.ntk, kernel)
    assert_equal(both.nngp, oracles.naive_nngp(network, PARAMS, X))
    assert_equal(kernel_fn(x, None, "nngp", params), both.nngp)
    factors = ntk_fn.factors(x, params)
    assert_equal(ntk_fn.contract(factors), kernel)
    blocks = nt.batch(kernel_fn, 3)  # which computes on one device
    assert_equal(blocks(x, None, None, params).ntk, kernel)
    assert_equal(blocks(X, x, "ntk", PARAMS), kernel)
    assert blocks.explain(x, None, "ntk", params).n == 8
    assert "all 4 leaves" in str(ntk_fn.explain(x, None, params))
    assert max(nt.empirical_ntk_fn(network).check(x, params).values()) < 1e-3
    scaled = nt.empirical_ntk_fn(lambda p, x, s: network(p, x) * s, (), vmap_axes=0)
    on_mesh = jax.device_put(jnp.array(2.0), NamedSharding(mesh, P()))
    assert_equal(scaled(X, None, PARAMS, s=on_mesh), 4 * kernel)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_mixed_examples_are_refused_on_meshes(kind):
    x = jax.device_put(X, NamedSharding(mesh_of(kind), P("d")))
    ntk_fn = nt.empirical_ntk_fn(lambda w, x: (x - x.mean(0)) @ w, vmap_axes=0)
    with pytest.raises(ValueError, match="f mixes examples"):
        ntk_fn(x, None, uniform(9, 4, 2))


@pytest.mark.parametrize(
    "name", ["cnn", "embedding_tied", "attention_heads", "scan_layers", "weight_norm"]
)
def test_kinds_inside_shard_map(name):
    case = cases.get(name)
    ntk_fn = nt.empirical_ntk_fn(case.f, (), vmap_axes=0)
    x = jax.tree.map(lambda a: jnp.concatenate([a, a[:1]]), case.x1)  # as many as devices
    mapped = jax.shard_map(
        lambda params, x1, x2: ntk_fn(x1, x2, params),
        mesh=mesh_of(AxisType.Auto),
        in_specs=(P(), P("d"), P()),
        out_specs=P("d"),
    )
    expected = oracles.naive_ntk(case.f, case.params, x, case.x2)
    assert_equal(jax.jit(mapped)(case.params, x, case.x2), expected)
