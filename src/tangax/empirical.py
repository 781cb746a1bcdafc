"""Empirical (finite-width) kernels of a function `f(params, x, **kwargs)`.

    NTK    Theta = J(x1) J(x2)^T,   J = df/dparams
    NNGP   K     = f(x1) f(x2)^T

Each `empirical_*_fn` returns a function of the inputs and the parameters; `f`, `params`, `x` and
the outputs are any pytrees. The functions returned can be wrapped in `jax.jit`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from ._arguments.inputs import warn_of_pairs, warn_of_statistics
from ._arguments.sides import read_arguments
from ._methods.kernel_fns import KernelFn, NngpFn, NtkFn, NtkImplementation
from ._shared import derivatives
from ._shared.axes import Axes, VmapAxes
from ._shared.precision import full_precision
from ._shared.trees import check_same_structure, named_leaves


def empirical_nngp_fn(
    f: Callable[..., Any],
    trace_axes: Axes = (-1,),
    diagonal_axes: Axes = (),
    *,
    precision: Any = None,
) -> NngpFn:
    """A function for the output kernel `f(x1) f(x2)^T` (NNGP) of `f`.

    Args:
        f: a pure function `f(params, x, **kwargs)`. What it closes over is read at the first call
            for each shape, as under `jit`.
        trace_axes: output axes to sum over, divided by their size; negative ones count from the
            end. The default is the axis of classes or features.
        diagonal_axes: output axes that appear once: only their diagonal is computed.
        precision: of matrix products, as for `jax.default_matmul_precision`; by default full
            float32 on every device.

    Returns:
        `nngp_fn(x1, x2, params, **kwargs)`. The kernel has the shape
        `zip(f(x1).shape, f(x2).shape)`: every output axis of `f(x1)` is followed by its twin,
        without traced axes, diagonal ones once. Its dtype is that of the outputs, float32 for
        shorter ones. Several outputs give a tree of kernels. A keyword argument that is a tuple of
        two is split: the first is for `x1`, the second for `x2`. A single `rng` is given to both
        where `x2` is `None` or equal to `x1`, else folded into another key for `x2`.

    Raises:
        ValueError: axes out of range, repeated, or of different sizes in `f(x1)` and `f(x2)`.
        TypeError: complex outputs.

    Cost: two evaluations of `f` (one for `x2=None`) and one contraction over the traced axes.

    Source: Lee et al., "Deep Neural Networks as Gaussian Processes" (2018), section 2, for the
    limit that this kernel estimates.

    Example:
        >>> import jax, tangax as nt
        >>> f = lambda w, x: jax.numpy.tanh(x @ w)
        >>> w, x = jax.random.normal(jax.random.key(0), (2, 5, 5))
        >>> nt.empirical_nngp_fn(f)(x, None, w).shape
        (5, 5)
        >>> nt.empirical_nngp_fn(f, diagonal_axes=(0,))(x, None, w).shape
        (5,)
    """
    return NngpFn(f, trace_axes, diagonal_axes, precision)


def empirical_ntk_fn(
    f: Callable[..., Any],
    trace_axes: Axes = (-1,),
    diagonal_axes: Axes = (),
    vmap_axes: VmapAxes = None,
    implementation: NtkImplementation | int = NtkImplementation.AUTO,
    *,
    check_vmap: bool = True,
    memory: int | str | None = None,
    precision: Any = None,
) -> NtkFn:
    """A function for the neural tangent kernel `J(x1) J(x2)^T` of `f`, with `J = df/dparams`.

    Args:
        f: a pure function `f(params, x, **kwargs)`. Its parameters are the floating-point leaves
            of `params`; other leaves are constants. What it closes over is read at the first call
            for each shape, as under `jit`.
        trace_axes: output axes to sum over, divided by their size; negative ones count from the
            end. Use `()` for the exact kernel of all outputs.
        diagonal_axes: output axes that appear once: only their diagonal is computed. With the
            batch axis among them `n` Jacobians are needed and `n` products, not `n*n`.
        vmap_axes: the batch axis, where `f` treats examples independently: an int for all inputs
            and outputs, or a triple `(in_axes, out_axes, kwargs_axes)` of axes or tree prefixes of
            axes as for `jax.vmap`, the last a dict from keyword arguments to axes. A tree that is
            no such triple is for inputs and outputs alike. `None` treats the whole batch as one
            example: always right, and slower by the batch size.
        implementation: see `NtkImplementation`.
        check_vmap: outside `jit`, at the first call for each shape, compare `f` on two examples
            together and apart, and raise if they differ; and compare the derivative as it is
            factored with `jax.vjp` of `f`, leaf by leaf (see `ntk_fn.check`). With `vmap_axes=None`
            and 8 examples or more, a line in the log says if `vmap_axes=0` would do.
        memory: a bound on what is held besides the arguments and the kernel, in bytes or as a
            string like "2GiB"; by default a quarter of what the device has free. It is kept by
            blocks of outputs and by contracting in pieces, not by blocks of examples: what the
            forward pass leaves behind for all of them is held. Less is taken where more saves no
            time. `explain` says what it comes to, a call that will exceed it logs a warning, and
            one that would hold more than 12 times as much, and more than 256 MiB, is refused. Not
            for implementations 1 and 2.
        precision: of matrix products, in `f` too, as for `jax.default_matmul_precision`; by default
            full float32 on every device.

    Returns:
        `ntk_fn(x1, x2, params, **kwargs)`. The kernel has the shape
        `zip(f(x1).shape, f(x2).shape)`: every output axis of `f(x1)` is followed by its twin,
        without traced axes, diagonal ones once. Its dtype is that of outputs and parameters
        promoted, and float32 for shorter ones. `x2=None` means `x2=x1`, computed once and exactly
        symmetric. Several outputs give a tree of kernels, without the covariances between outputs.
        A keyword argument that is a tuple of two is split: the first is for `x1`, the second for
        `x2`. A single `rng` is given to both where `x2` is `None` or equal to `x1`, else folded
        into another key for `x2`.

    Raises:
        ValueError: axes that do not fit, named with the shapes; examples that `f` mixes though
            `vmap_axes` is given, if two of them show it; trees of different structure; `memory`
            for an implementation that has no blocks, or of less than a twelfth of what a call
            holds; `NTK_VECTOR_PRODUCTS` for a function without forward mode.
        TypeError: complex parameters or outputs; no floating-point parameter.

    Cost: see `NtkImplementation`.

    Source: Jacot, Gabriel, Hongler, "Neural Tangent Kernel" (2018), section 4.

    Example:
        >>> import jax, tangax as nt
        >>> f = lambda w, x: jax.numpy.tanh(x @ w)
        >>> w, x = jax.random.normal(jax.random.key(0), (2, 5, 5))
        >>> nt.empirical_ntk_fn(f, vmap_axes=0)(x[:3], x, w).shape
        (3, 5)
        >>> nt.empirical_ntk_fn(f, trace_axes=(), vmap_axes=0)(x[:3], x, w).shape
        (3, 5, 5, 5)
    """
    return NtkFn(
        f, trace_axes, diagonal_axes, vmap_axes, implementation, check_vmap, memory, precision
    )


def empirical_kernel_fn(
    f: Callable[..., Any],
    trace_axes: Axes = (-1,),
    diagonal_axes: Axes = (),
    vmap_axes: VmapAxes = None,
    implementation: NtkImplementation | int = NtkImplementation.AUTO,
    *,
    check_vmap: bool = True,
    memory: int | str | None = None,
    precision: Any = None,
) -> KernelFn:
    """A function for the NNGP `f(x1) f(x2)^T` and the NTK `J(x1) J(x2)^T` of `f`.

    Args, shapes, dtypes, errors, cost and sources are those of `empirical_nngp_fn` and
    `empirical_ntk_fn`.

    Returns:
        `kernel_fn(x1, x2, get, params, **kwargs)`; `get` is `'nngp'`, `'ntk'`, a tuple of them (a
        namedtuple `EmpiricalKernel` in that order comes back) or `None` (both).
        `kernel_fn(x1, x2, params)` means both as well. Under `jit`, `get` is static.

    Raises:
        ValueError: an unknown, empty or repeated `get`, besides those of the two functions.

    Example:
        >>> import jax, tangax as nt
        >>> f = lambda w, x: jax.numpy.tanh(x @ w)
        >>> w, x = jax.random.normal(jax.random.key(0), (2, 5, 5))
        >>> kernel_fn = nt.empirical_kernel_fn(f, vmap_axes=0)
        >>> kernel_fn(x[:3], x, "ntk", w).shape
        (3, 5)
        >>> jax.tree.map(jax.numpy.shape, kernel_fn(x[:3], x, w))
        EmpiricalKernel(nngp=(3, 5), ntk=(3, 5))
    """
    return KernelFn(
        NngpFn(f, trace_axes, diagonal_axes, precision),
        NtkFn(
            f, trace_axes, diagonal_axes, vmap_axes, implementation, check_vmap, memory, precision
        ),
    )


def empirical_ntk_vp_fn(
    f: Callable[..., Any], x1: Any, x2: Any, params: Any, **kwargs: Any
) -> Callable[[Any], Any]:
    """The product of the NTK with a vector: `v -> J(x1) (J(x2)^T v)`, never forming the kernel.

    Args:
        f: a function `f(params, x, **kwargs)`.
        x1: inputs whose outputs the result is shaped like.
        x2: inputs whose outputs the vector is shaped like; `None` means `x1`.
        params: the parameters.
        **kwargs: passed to `f`; a tuple of two is split between `x1` and `x2`.

    Returns:
        A linear map from a cotangent shaped like `f(params, x2)` to one shaped like
        `f(params, x1)`. Cross terms between several outputs are included.

    Raises:
        ValueError: a cotangent of another tree or shape than `f(params, x2)`.
        TypeError: complex parameters or outputs; no floating-point parameter.

    Cost: one backward and one forward-mode pass of `f` a product; memory of the backward pass.
    Where a `custom_vjp` has a backward rule that is not linear or cannot be transposed, a backward
    pass for each output of `f(params, x1)` and `f(params, x2)`.

    Source: Novak, Sohl-Dickstein, Schoenholz, "Fast Finite Width Neural Tangent Kernel" (2022),
    section 3.2.

    Example:
        >>> import jax, tangax as nt
        >>> f = lambda w, x: jax.numpy.tanh(x @ w)
        >>> w, x = jax.random.normal(jax.random.key(0), (2, 5, 5))
        >>> nt.empirical_ntk_vp_fn(f, x[:3], x, w)(x).shape
        (3, 5)
    """
    warn_of_pairs(set(), x2, kwargs)
    with full_precision(None):
        given = read_arguments(f, x1, x2, params, None, kwargs, differentiate=True)
    warn_of_statistics(set(), given.params)
    leaves, (first, second) = given.params.leaves, given.sides.sides
    expected = given.treedef.unflatten(second.outputs)
    with full_precision(None):
        pullback = derivatives.pullback(lambda w: second.batch(w, []), leaves)

    def ntk_vp(cotangent: Any) -> Any:
        check_same_structure("the vector", cotangent, "f(params, x2)", expected)
        vectors = []
        for (name, v), y in zip(named_leaves("vector", cotangent), second.outputs, strict=True):
            if jnp.shape(v) != y.shape:
                raise ValueError(f"{name} has shape {jnp.shape(v)}, f(params, x2) has {y.shape}.")
            vectors.append(jnp.asarray(v, y.dtype))
        with full_precision(None):
            tangent = pullback(vectors)
            _, product = derivatives.pushforward(lambda w: first.batch(w, []), leaves, tangent)
        return given.treedef.unflatten(product)

    return ntk_vp
