"""Rules of users that look at what is perturbed: in diffrax, optimistix, lineax, and by hand.

The oracle differentiates in all leaves at once, as a user does: in one alone such a rule may give
another derivative.
"""

import diffrax
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optimistix
import pytest
from jax import lax
from support.arrays import QUICK, assert_equal, uniform
from support.options import half

import tangax as nt


def kernel_of_all_leaves(f, params, x):
    """`[n, m, o, q]`, of outputs `[n, o]`."""

    def jacobian():
        found = jax.jacrev(lambda p: f(p, x))(params)
        shape = jax.eval_shape(f, params, x).shape
        return jnp.concatenate([j.reshape(*shape, -1) for j in jax.tree.leaves(found)], -1)

    J = np.asarray(jax.jit(jacobian, compiler_options=QUICK)())
    return np.einsum("nop,mqp->nmoq", J, J)


# --- by hand --------------------------------------------------------------------------------------


def is_zero(tangent):
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


@jax.custom_jvp
def both(w, h):
    return jnp.tanh(h @ w)


def both_rule(primals, tangents):
    """Passes a derivative on only if both operands move."""
    given = [jnp.zeros_like(a) if is_zero(t) else t for a, t in zip(primals, tangents, strict=True)]
    y, dy = jax.jvp(lambda w, h: jnp.tanh(h @ w), primals, tuple(given))
    return y, jnp.zeros_like(y) if any(map(is_zero, tangents)) else dy


both.defjvp(both_rule, symbolic_zeros=True)


@jax.custom_vjp
def marked(w, h):
    return jnp.sin(h @ w)


def marked_forward(w, h):
    """Doubles the derivative where both are perturbed."""
    scale = 2.0 if w.perturbed and h.perturbed else 1.0
    return jnp.sin(h.value @ w.value), (w.value, h.value, scale)


def marked_backward(kept, g):
    w, h, scale = kept
    g = scale * g * jnp.cos(h @ w)
    return jnp.outer(h, g), g @ w.T


marked.defvjp(marked_forward, marked_backward, symbolic_zeros=True)


def twice(p, v):
    return both(p["w"], both(p["w"], v @ p["u"]))


def of_data_alone(p, v):
    """Here only one operand moves, for the user too."""
    return both(p["w"], v) + v @ p["u"]


def of_views(p, v):
    return both(p["w"].T[::-1] * 0.5, jnp.concatenate([v, p["b"]])[1:-1] @ p["u"][:3, :4])


def in_a_loop(p, v):
    return lax.scan(lambda h, w: (both(w, h) + marked(p["u"], h), None), v, p["stack"])[0]


def in_a_branch(p, v):
    h = v @ p["u"]
    return lax.cond(v[0] > 0, lambda w, h: both(w, h), lambda w, h: marked(w, 2 * h), p["w"], h)


def in_a_while(p, v):
    step = lambda c: (c[0] + 1, both(p["w"], c[1]))  # noqa: E731
    loop = eqxi.while_loop(
        lambda c: c[0] < 3, step, (0, v @ p["u"]), kind="checkpointed", max_steps=4
    )
    return loop[1]


def in_a_checkpoint(p, v):
    return jax.checkpoint(lambda w, h: marked(w, both(w, h)))(p["w"], v @ p["u"])


PARAMS = {
    "u": uniform(0, 4, 4),
    "w": uniform(1, 4, 4),
    "b": uniform(2, 1),
    "stack": uniform(3, 2, 4, 4),
}
X = uniform(4, 3, 4)


@half(
    one=(twice, of_data_alone, in_a_loop, in_a_branch, in_a_while, in_a_checkpoint),
    vmap_axes=(0, None),
)
def test_rules_by_hand(one, vmap_axes):
    def f(p, x):
        return jax.vmap(lambda v: one(p, v))(x)

    ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=vmap_axes)
    kernel = jax.jit(ntk_fn, compiler_options=QUICK)(X, None, PARAMS)
    assert_equal(kernel, kernel_of_all_leaves(f, PARAMS, X))
    rows = {row.leaf: row for row in ntk_fn.explain(X, None, PARAMS).rows}
    assert "generic" in rows["params['stack']" if one is in_a_loop else "params['w']"].kind


# --- solvers --------------------------------------------------------------------------------------


def field(t, y, p):
    return jnp.tanh(y @ p["w"] + t * p["b"]) @ p["v"]


def neural_ode(adjoint):
    def one(p, v):
        return (
            p["g"]
            * diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                diffrax.Heun(),
                *(0.0, 1.0, 0.5, v),
                args=p,
                adjoint=adjoint,
                max_steps=4,
            ).ys[-1]
        )

    return one


def steady_state(p, v):
    def decay(t, y, args):
        p, v = args
        return jnp.tanh(v @ p["w"] + p["b"]) @ p["v"] - y * jnp.exp(p["g"])

    return diffrax.diffeqsolve(
        diffrax.ODETerm(decay),
        diffrax.Heun(),
        *(0.0, 40.0, 0.1, v),
        args=(p, v),
        adjoint=diffrax.ImplicitAdjoint(),
        event=diffrax.Event(diffrax.steady_state_event()),
        stepsize_controller=diffrax.PIDController(1e-11, 1e-11),
        max_steps=4096,
    ).ys[-1]


def contraction(y, args):
    p, v = args
    return 0.3 * jnp.tanh(v @ p["w"] + p["b"]) @ p["v"] + 0.2 * jnp.tanh(y) * p["g"]


def fixed_point(p, v):
    solver = optimistix.FixedPointIteration(1e-12, 1e-12)
    return optimistix.fixed_point(contraction, solver, v, (p, v)).value


def root(p, v):
    solver = optimistix.Newton(1e-12, 1e-12)
    return optimistix.root_find(lambda y, args: y - contraction(y, args), solver, v, (p, v)).value


def linear_solve(p, v):
    operator = lineax.MatrixLinearOperator(3 * jnp.eye(3) + p["w"] @ p["v"])
    return lineax.linear_solve(operator, v * p["g"] + p["b"].sum()).value


def conjugate_gradients(p, v):
    matrix = p["w"] @ p["w"].T + 3 * jnp.eye(3)
    operator = lineax.MatrixLinearOperator(matrix, lineax.positive_semidefinite_tag)
    return lineax.linear_solve(operator, v * p["g"], lineax.CG(1e-12, 1e-12)).value


SOLVERS = {
    "RecursiveCheckpointAdjoint": neural_ode(diffrax.RecursiveCheckpointAdjoint()),
    "BacksolveAdjoint": neural_ode(diffrax.BacksolveAdjoint()),
    "DirectAdjoint": neural_ode(diffrax.DirectAdjoint()),
    "ImplicitAdjoint": steady_state,
    "fixed point": fixed_point,
    "root": root,
    "linear solve": linear_solve,
    "conjugate gradients": conjugate_gradients,
}
SLOW = pytest.mark.full
# Their loops and rules are those of `in_a_while` and `marked` above, and take long to compile.
ADJOINTS = ("RecursiveCheckpointAdjoint", "BacksolveAdjoint", "DirectAdjoint")
LONG = (*ADJOINTS, "root", "conjugate gradients")
SOLVED = [
    pytest.param(name, axes, marks=() if axes == 0 and name not in LONG else SLOW)
    for name in SOLVERS
    for axes in (0, None)
]


@pytest.mark.parametrize("name, vmap_axes", SOLVED)
def test_solvers(name, vmap_axes):
    params = {"w": uniform(0, 3, 4), "v": uniform(1, 4, 3), "b": uniform(2, 4), "g": uniform(3, 3)}
    x = uniform(4, 2, 3)

    def f(p, x):
        return jax.vmap(lambda v: SOLVERS[name](p, v))(x)

    ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=vmap_axes)
    kernel = jax.jit(ntk_fn, compiler_options=QUICK)(x, None, params)
    assert_equal(kernel, kernel_of_all_leaves(f, params, x))
