"""Empirical (finite-width) kernels of a function `f(params, x, **kwargs)`.

    NTK    Theta = J(x1) J(x2)^T,   J = df/dparams
    NNGP   K     = f(x1) f(x2)^T

Each `empirical_*_fn` returns a function of the inputs and the parameters; `f`, `params`, `x` and
the outputs are any pytrees. The functions returned can be wrapped in `jax.jit`.
"""

from __future__ import annotations

import enum
import functools
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp

from . import _modes
from ._axes import Axes, KernelAxes, VmapAxes, split_vmap_axes
from ._reference import jacobian_contraction, ntk_vector_products
from ._sides import Pair, check_examples_are_independent, pair_sides, warn_if_batch_is_traced
from ._trees import check_same_structure, named_leaves

Get = Literal["nngp", "ntk"]

EmpiricalKernel = namedtuple("EmpiricalKernel", ["nngp", "ntk"])
"""Both kernels, as `empirical_kernel_fn` returns them."""


class NtkImplementation(enum.IntEnum):
    """How an NTK is computed. All give the same kernel.

    `AUTO`: the library's choice, today `JACOBIAN_CONTRACTION`.

    `JACOBIAN_CONTRACTION`: both Jacobians whole, then one contraction. Time: a backward pass for
    each output of each example, and `n*m*o*q*p` multiply-adds; memory: `(n+m)*o*p`.

    `NTK_VECTOR_PRODUCTS`: column by column, `J(x1) (J(x2)^T e)`. Time: `n*m*q` forward passes;
    memory: `m*q*p` and no Jacobian of `x1`. Needs forward mode.

    Both are analysed in Novak, Sohl-Dickstein, Schoenholz, "Fast Finite Width Neural Tangent
    Kernel" (2022), sections 3.1 and 3.2.
    """

    AUTO = 0
    JACOBIAN_CONTRACTION = 1
    NTK_VECTOR_PRODUCTS = 2


_METHODS = {
    NtkImplementation.AUTO: jacobian_contraction,
    NtkImplementation.JACOBIAN_CONTRACTION: jacobian_contraction,
    NtkImplementation.NTK_VECTOR_PRODUCTS: ntk_vector_products,
}


@dataclass(frozen=True, eq=False)
class NngpFn:
    """The function that `empirical_nngp_fn` returns."""

    f: Callable[..., Any]
    trace_axes: Axes = (-1,)
    diagonal_axes: Axes = ()

    def __call__(self, x1: Any, x2: Any, params: Any, **kwargs: Any) -> Any:
        """The kernel `f(x1) f(x2)^T`. `x2=None` means `x2=x1`, computed once."""
        pair = pair_sides(self.f, x1, x2, params, None, kwargs, differentiate=False)
        axes = pair.axes(self.trace_axes, self.diagonal_axes)
        y1 = pair.first.batch([], [])
        y2 = y1 if pair.same else pair.second.batch([], [])
        return finish(pair, axes, [outer(a, b, ax) for a, b, ax in zip(y1, y2, axes, strict=True)])


@dataclass(frozen=True, eq=False)
class NtkFn:
    """The function that `empirical_ntk_fn` returns."""

    f: Callable[..., Any]
    trace_axes: Axes = (-1,)
    diagonal_axes: Axes = ()
    vmap_axes: VmapAxes = None
    implementation: NtkImplementation | int = NtkImplementation.AUTO
    check_vmap: bool = True
    # Shapes for which `f` was seen to treat examples apart, and whether a warning was given.
    _seen: set[Any] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        split_vmap_axes(self.vmap_axes)
        if self.implementation not in list(NtkImplementation):
            valid = ", ".join(f"{i.name} = {i.value}" for i in NtkImplementation)
            raise ValueError(f"implementation must be one of {valid}; got {self.implementation!r}.")

    def __call__(self, x1: Any, x2: Any, params: Any, **kwargs: Any) -> Any:
        """The kernel `J(x1) J(x2)^T`. `x2=None` means `x2=x1`, computed once."""
        pair = pair_sides(self.f, x1, x2, params, self.vmap_axes, kwargs, differentiate=True)
        axes = pair.axes(self.trace_axes, self.diagonal_axes)
        self._check(pair, axes, x1)
        return finish(pair, axes, _METHODS[NtkImplementation(self.implementation)](pair, axes))

    def _check(self, pair: Pair, axes: list[KernelAxes], x1: Any) -> None:
        """What is told once: a traced batch axis, examples that are mixed."""
        if "traced" not in self._seen and warn_if_batch_is_traced(pair, axes, x1):
            self._seen.add("traced")
        if not self.check_vmap or self.vmap_axes is None or pair.params is None:
            return
        for side in (pair.first, pair.second):
            shapes = tuple((d.shape, d.dtype) for d in side.data)
            if shapes not in self._seen and check_examples_are_independent(
                side, pair.params.leaves, pair.names
            ):
                self._seen.add(shapes)


@dataclass(frozen=True, eq=False)
class KernelFn:
    """The function that `empirical_kernel_fn` returns."""

    nngp_fn: NngpFn
    ntk_fn: NtkFn

    def __call__(self, x1: Any, x2: Any, get: Any = None, params: Any = None, **kwargs: Any) -> Any:
        """The kernels that `get` names; `kernel_fn(x1, x2, params)` gives both."""
        if params is None and not is_get(get):
            get, params = None, get
        if params is None:
            raise TypeError("kernel_fn needs params: call kernel_fn(x1, x2, get, params).")
        names = canonical_get(get)
        functions = {"nngp": self.nngp_fn, "ntk": self.ntk_fn}
        kernels = [functions[name](x1, x2, params, **kwargs) for name in names]
        return kernels[0] if isinstance(get, str) else kernel_tuple(names)(*kernels)


def empirical_nngp_fn(
    f: Callable[..., Any], trace_axes: Axes = (-1,), diagonal_axes: Axes = ()
) -> NngpFn:
    """A function for the output kernel `f(x1) f(x2)^T` (NNGP) of `f`.

    Args:
        f: a function `f(params, x, **kwargs)`.
        trace_axes: output axes to sum over, divided by their size; negative ones count from the
            end. The default is the axis of classes or features.
        diagonal_axes: output axes that appear once: only their diagonal is computed.

    Returns:
        `nngp_fn(x1, x2, params, **kwargs)`. The kernel has the shape
        `zip(f(x1).shape, f(x2).shape)`: every output axis of `f(x1)` is followed by its twin,
        without traced axes, diagonal ones once. Its dtype is that of the outputs. Several outputs
        give a tree of kernels. A keyword argument that is a tuple of two is split: the first is
        for `x1`, the second for `x2`.

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
    return NngpFn(f, trace_axes, diagonal_axes)


def empirical_ntk_fn(
    f: Callable[..., Any],
    trace_axes: Axes = (-1,),
    diagonal_axes: Axes = (),
    vmap_axes: VmapAxes = None,
    implementation: NtkImplementation | int = NtkImplementation.AUTO,
    *,
    check_vmap: bool = True,
) -> NtkFn:
    """A function for the neural tangent kernel `J(x1) J(x2)^T` of `f`, with `J = df/dparams`.

    Args:
        f: a function `f(params, x, **kwargs)`. Its parameters are the floating-point leaves of
            `params`; other leaves are constants.
        trace_axes: output axes to sum over, divided by their size; negative ones count from the
            end. Use `()` for the exact kernel of all outputs.
        diagonal_axes: output axes that appear once: only their diagonal is computed. With the
            batch axis among them `n` Jacobians are needed and `n` products, not `n*n`.
        vmap_axes: the batch axis, where `f` treats examples independently: an int for all inputs
            and outputs, or a triple `(in_axes, out_axes, kwargs_axes)` of axes or tree prefixes of
            axes as for `jax.vmap`, the last a dict from keyword arguments to axes. `None` treats
            the whole batch as one example: always right, and slower by the batch size.
        implementation: see `NtkImplementation`.
        check_vmap: outside `jit`, compare `f` on two examples together and apart at the first call
            for each shape, and raise if they differ.

    Returns:
        `ntk_fn(x1, x2, params, **kwargs)`. The kernel has the shape
        `zip(f(x1).shape, f(x2).shape)`: every output axis of `f(x1)` is followed by its twin,
        without traced axes, diagonal ones once. Its dtype is that of outputs and parameters
        promoted. `x2=None` means `x2=x1`, computed once and exactly symmetric. Several outputs
        give a tree of kernels, without the covariances between outputs. A keyword argument that is
        a tuple of two is split: the first is for `x1`, the second for `x2`.

    Raises:
        ValueError: axes that do not fit, named with the shapes; examples that `f` mixes though
            `vmap_axes` is given; trees of different structure; `NTK_VECTOR_PRODUCTS` for a
            function without forward mode.
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
    return NtkFn(f, trace_axes, diagonal_axes, vmap_axes, implementation, check_vmap)


def empirical_kernel_fn(
    f: Callable[..., Any],
    trace_axes: Axes = (-1,),
    diagonal_axes: Axes = (),
    vmap_axes: VmapAxes = None,
    implementation: NtkImplementation | int = NtkImplementation.AUTO,
    *,
    check_vmap: bool = True,
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
        NngpFn(f, trace_axes, diagonal_axes),
        NtkFn(f, trace_axes, diagonal_axes, vmap_axes, implementation, check_vmap),
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

    Source: Novak, Sohl-Dickstein, Schoenholz, "Fast Finite Width Neural Tangent Kernel" (2022),
    section 3.2.

    Example:
        >>> import jax, tangax as nt
        >>> f = lambda w, x: jax.numpy.tanh(x @ w)
        >>> w, x = jax.random.normal(jax.random.key(0), (2, 5, 5))
        >>> nt.empirical_ntk_vp_fn(f, x[:3], x, w)(x).shape
        (3, 5)
    """
    pair = pair_sides(f, x1, x2, params, None, kwargs, differentiate=True)
    assert pair.params is not None
    leaves = pair.params.leaves
    expected = pair.treedef.unflatten(pair.second.outputs)
    _, pullback = jax.vjp(lambda w: pair.second.batch(w, []), leaves)

    def ntk_vp(cotangent: Any) -> Any:
        check_same_structure("the vector", cotangent, "f(params, x2)", expected)
        vectors = []
        for (name, v), y in zip(
            named_leaves("vector", cotangent), pair.second.outputs, strict=True
        ):
            if jnp.shape(v) != y.shape:
                raise ValueError(f"{name} has shape {jnp.shape(v)}, f(params, x2) has {y.shape}.")
            vectors.append(jnp.asarray(v, y.dtype))
        (tangent,) = pullback(vectors)
        _, product = _modes.pushforward(lambda w: pair.first.batch(w, []), leaves, tangent)
        return pair.treedef.unflatten(product)

    return ntk_vp


def outer(y1: jax.Array, y2: jax.Array, ax: KernelAxes) -> jax.Array:
    """`f(x1) f(x2)^T` of one output."""
    dtype = jnp.result_type(y1, y2)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)
    kernel = jnp.einsum(y1, ax.first, y2, ax.second, ax.result, preferred_element_type=dtype)
    return kernel / ax.size(y1.shape)


def finish(pair: Pair, axes: list[KernelAxes], kernels: list[jax.Array]) -> Any:
    """The kernels in the tree of the outputs; of one set of examples, exactly symmetric."""
    if pair.same:
        kernels = [
            (k + jnp.transpose(k, ax.transposition())) / 2
            for k, ax in zip(kernels, axes, strict=True)
        ]
    return pair.treedef.unflatten(kernels)


def is_get(get: Any) -> bool:
    """Whether the third argument of `kernel_fn` names kernels rather than being parameters."""
    return (
        get is None
        or isinstance(get, str)
        or (isinstance(get, tuple) and all(isinstance(g, str) for g in get))
    )


def canonical_get(get: Any) -> tuple[str, ...]:
    """`get` as a tuple of kernel names; `ValueError` unless each is known and named once."""
    names = ("nngp", "ntk") if get is None else (get,) if isinstance(get, str) else get
    lower = tuple(name.lower() for name in names) if is_get(names) else ()
    if not lower or len(set(lower)) < len(lower) or not set(lower) <= {"nngp", "ntk"}:
        msg = f"get must be 'nngp', 'ntk', a tuple of them each once, or None (both); got {get!r}."
        raise ValueError(msg)
    return lower


@functools.cache
def kernel_tuple(names: tuple[str, ...]) -> Any:
    """The namedtuple of kernels in the order asked for."""
    return EmpiricalKernel if names == ("nngp", "ntk") else namedtuple("EmpiricalKernel", names)
