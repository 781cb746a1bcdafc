"""Kernels of any number of examples: block by block, in bounded memory, to disk if asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._blocks.nonfinite import MODES
from ._blocks.place import resolved
from ._blocks.plan import BlockPlan
from ._blocks.run import Batched, Options
from ._methods.kernel_fns import KernelFn, NngpFn, NtkFn
from ._shared.axes import is_int
from ._shared.get import kernel_tuple
from ._shared.memory import budget


def batch(
    kernel_fn: Any,
    batch_size: int | None = None,
    *,
    memory: int | str | None = None,
    store: Any = None,
    progress: bool = False,
    on_nonfinite: str = "warn",
    **others: Any,
) -> BatchedFn | BatchedKernelFn:
    """A kernel function that takes any number of examples, block by block, in bounded memory.

        Theta[n,m] = tile of (block of n, block of m),   from halves: factors(x1[n]), factors(x2[m])

    Each half is computed once and kept as long as memory allows: blocks of rows stay resident,
    blocks of columns pass them by. `x2=None` computes half of the tiles and copies the rest.

    Args:
        kernel_fn: what `empirical_ntk_fn`, `empirical_nngp_fn` or `empirical_kernel_fn` returned,
            or that under `jax.jit`. `vmap_axes=None`, and an NNGP, which has none, are taken as
            `vmap_axes=0`.
        batch_size: examples of a tile's side; by default chosen to fit `memory`.
        memory: the budget for host and device together, in bytes or as a string like "8GiB":
            halves, intermediates, tiles, 256 MiB for compiling, and the kernel unless it goes to
            disk, but not `x1`, `x2` and `params`, which are yours. Half of what is free unless
            given. It replaces the `memory` of `kernel_fn`.
        store: a path or Zarr store to write to (Zarr v3, one chunk for each tile). A relative path
            is that of the folder in which `batch` is called. Called again after it was stopped, by
            whatever, the function continues; a finished kernel is checked and returned at once. A
            lock keeps other runs out: of the machine's other processes too where it is a folder.
            Needs `pip install 'tangax[store]'`.
        progress: whether to show a bar. Needs `pip install 'tangax[progress]'`.
        on_nonfinite: what to do about entries that are NaN or infinite: "warn", "raise", "ignore".
        others: none. `device_count` and `store_on_device` of Neural Tangents are refused, with
            what to do instead.

    Returns:
        A function with the signature of `kernel_fn`. `x1` and `x2` may also be NumPy memory maps or
        Zarr arrays, or trees of them; they are read block by block. Kernels are NumPy arrays, or
        Zarr arrays with `store`, of the shape and dtype that `kernel_fn` gives. They do not depend
        on the plan beyond rounding, and for the same `explain(...).recipe` are the same to the last
        bit. `.explain(...)`, with the same arguments or `jax.ShapeDtypeStruct`s, computes nothing
        and prints the plan, that of the store if it has begun. Calls of the same shapes are planned
        and compiled once, and what `f` closes over is read then, as under `jit`; with `store` it is
        compared at every call.

    Raises:
        ValueError: a budget that is too small, with the least that works; examples of unequal
            number; a path that cannot be written, or holds another kernel, with what differs, or a
            damaged one; an `f` that a store cannot tell from others, such as one that calls Python
            back; an unknown option; a traced batch axis.
        TypeError: what is no kernel function of Tangax, or no store; a call under `jit`; an
            argument of Neural Tangents' that is none here.
        RuntimeError: another run uses the store.
        OSError: the store could not be written, such as on a full disk; the same call continues.
        FloatingPointError: entries that are not finite, with `on_nonfinite="raise"`.

    Cost: with `r` resident rows, `n + m * ceil(n / r)` halves; with `x2=None` `n` if `r >= n`, else
    about `n * (n / r) / 2`. A contraction for each tile. Memory: see `memory`.

    Source: Novak et al., "Neural Tangents" (2020), section 3.2, for kernels in batches; halves that
    are kept are from Novak, Sohl-Dickstein, Schoenholz, "Fast Finite Width Neural Tangent Kernel"
    (2022), where they are factors of one tile.

    Example:
        >>> import jax, tangax as nt
        >>> f = lambda w, x: jax.numpy.tanh(x @ w)
        >>> w, x = jax.random.normal(jax.random.key(0), (2, 5, 5))
        >>> kernel_fn = nt.batch(nt.empirical_kernel_fn(f, vmap_axes=0), memory="1GiB")
        >>> kernel_fn(x, None, "ntk", w).shape
        (5, 5)
    """
    _check_options(others)
    kernel_fn = getattr(kernel_fn, "__wrapped__", kernel_fn)
    if batch_size is not None and (not is_int(batch_size) or batch_size < 1):
        raise ValueError(f"batch_size must be a positive integer or None, got {batch_size!r}.")
    if on_nonfinite not in MODES:
        raise ValueError(f"on_nonfinite must be one of {MODES}, got {on_nonfinite!r}.")
    if memory is not None:
        budget(memory)
    batch_size = None if batch_size is None else int(batch_size)
    store = None if store is None else resolved(store)
    options = Options(batch_size, memory, store, progress, on_nonfinite)
    if isinstance(kernel_fn, KernelFn):
        return BatchedKernelFn(Batched(kernel_fn, options))
    axes = getattr(kernel_fn, "trace_axes", ()), getattr(kernel_fn, "diagonal_axes", ())
    if isinstance(kernel_fn, NtkFn):
        nngp_fn = NngpFn(kernel_fn.f, *axes, kernel_fn.precision)
        return BatchedFn(Batched(KernelFn(nngp_fn, kernel_fn), options), "ntk")
    if isinstance(kernel_fn, NngpFn):
        ntk_fn = NtkFn(kernel_fn.f, *axes, vmap_axes=0, precision=kernel_fn.precision)
        return BatchedFn(Batched(KernelFn(kernel_fn, ntk_fn), options), "nngp")
    msg = (
        "batch takes what empirical_kernel_fn, empirical_ntk_fn or empirical_nngp_fn returned, "
        f"got {type(kernel_fn).__name__}. The kernel_fn of a stax network goes block by block "
        "itself: call it as it is."
    )
    raise TypeError(msg)


def _check_options(others: dict[str, Any]) -> None:
    for name in others:
        what = _INSTEAD.get(name, "See help(nt.batch).")
        raise TypeError(f"batch has no argument {name!r}. {what}")


# Arguments of Neural Tangents'.
_INSTEAD = {
    "device_count": (
        "It computes on one device: leave device_count out. For several, run one process on each "
        "with a part of x1, `batched(x1[a:b], x2, ...)`, and join the kernels along their rows."
    ),
    "store_on_device": (
        "Kernels are kept in the host's memory, as NumPy arrays, or on disk with store=: leave "
        "store_on_device out, and call jax.device_put on the result for an array of the device."
    ),
}


@dataclass(frozen=True, eq=False)
class BatchedFn:
    """An NTK or NNGP in blocks."""

    batched: Batched
    name: str

    def __call__(self, x1: Any, x2: Any, params: Any, **kwargs: Any) -> Any:
        """The kernel."""
        return self.batched.run((self.name,), x1, x2, params, kwargs)[0]

    def explain(self, x1: Any, x2: Any, params: Any, **kwargs: Any) -> BlockPlan:
        """The blocks of a call, as a value that prints as a table. Computes nothing."""
        return self.batched.plan((self.name,), x1, x2, params, kwargs)


@dataclass(frozen=True, eq=False)
class BatchedKernelFn:
    """NTK and NNGP in blocks."""

    batched: Batched

    def __call__(self, x1: Any, x2: Any, get: Any = None, params: Any = None, **kwargs: Any) -> Any:
        """The kernels that `get` names; `kernel_fn(x1, x2, params)` gives both."""
        names, single, params = self.batched.fn.request(get, params)
        kernels = self.batched.run(names, x1, x2, params, kwargs)
        return kernels[0] if single else kernel_tuple(names)(*kernels)

    def explain(
        self, x1: Any, x2: Any, get: Any = None, params: Any = None, **kwargs: Any
    ) -> BlockPlan:
        """The blocks of a call, as a value that prints as a table. Computes nothing."""
        names, _, params = self.batched.fn.request(get, params)
        return self.batched.plan(names, x1, x2, params, kwargs)
