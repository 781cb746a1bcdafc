"""Kernels of any number of examples: block by block, in bounded memory, to disk if asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._arguments.inputs import warn_of_pairs
from ._arguments.mixing import check_examples_are_independent
from ._blocks.examples import check_values, sides
from ._blocks.fill import Compute, Kept, fill, tqdm_class
from ._blocks.fingerprint import fingerprint, function_digest
from ._blocks.halves import ANY, Call, Halves, pair_of
from ._blocks.nonfinite import MODES, Finite
from ._blocks.place import locked, resolved
from ._blocks.plan import SHARE, BlockPlan, Recipe, plan_blocks
from ._blocks.store import OnDisk, created, opened, progress_of, recipe_of, recipe_there
from ._blocks.tiles import Array, InMemory, arrays_of
from ._methods.kernel_fns import KernelFn, NngpFn, NtkFn
from ._shared.axes import is_int
from ._shared.compiled import call_key
from ._shared.get import kernel_tuple
from ._shared.memory import budget, free, host_free
from ._shared.meshes import gathered, shapes_gathered
from ._shared.settings import default_promotion
from ._shared.trees import floats_as_arrays, split_arrays


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
    check_options(others)
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


def check_options(others: dict[str, Any]) -> None:
    """Refuse what `batch` does not take, and say what there is in place of it."""
    for name in others:
        what = INSTEAD.get(name, "See help(nt.batch).")
        raise TypeError(f"batch has no argument {name!r}. {what}")


# Arguments of Neural Tangents'.
INSTEAD = {
    "device_count": (
        "It computes on one device: leave device_count out. For several, run one process on each "
        "with a part of x1, `batched(x1[a:b], x2, ...)`, and join the kernels along their rows."
    ),
    "store_on_device": (
        "Kernels are kept in the host's memory, as NumPy arrays, or on disk with store=: leave "
        "store_on_device out, and call jax.device_put on the result for an array of the device."
    ),
}


@dataclass(frozen=True)
class Options:
    """The arguments of `batch`."""

    batch_size: int | None
    memory: int | str | None
    store: Any
    progress: bool
    on_nonfinite: str


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


@dataclass(frozen=True, eq=False)
class Batched:
    """Kernels in blocks."""

    fn: KernelFn
    options: Options
    # Plans and compiled functions by the shapes of calls.
    _compiled: dict[Any, tuple[BlockPlan, Compute]] = field(default_factory=dict, init=False)
    # Whether a warning was given.
    _warned: set[Any] = field(default_factory=set, init=False)

    @default_promotion()
    def plan(
        self, names: tuple[str, ...], x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]
    ) -> BlockPlan:
        """What `run` will do; where there is a store already, in the blocks of that."""
        arguments = shapes_gathered((x1, x2, params, kwargs))
        return of_floats(partial(self._planned, names), *arguments)

    def _planned(
        self, names: tuple[str, ...], x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]
    ) -> BlockPlan:
        call = self._call(names, x1, x2, params, kwargs, planned=True)
        recipe, store = None, self.options.store
        if store is not None and (group := opened(store)) is not None:
            examples = [side.n for side in call.sides]
            recipe = recipe_there(group, store, examples, self.options.batch_size)
        return self._plan(call, recipe)[0]

    @default_promotion()
    def run(
        self, names: tuple[str, ...], x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]
    ) -> list[Any]:
        """The kernels by name."""
        if self.options.progress:
            tqdm_class()
        check_values(x1, x2, params, kwargs)
        warn_of_pairs(self._warned, x2, kwargs)
        x1, x2, params, kwargs = gathered((x1, x2, params, kwargs))
        params = jax.tree.map(lambda w: jnp.asarray(w) if isinstance(w, np.ndarray) else w, params)
        return of_floats(partial(self._run, names), x1, x2, params, kwargs)

    def _run(
        self, names: tuple[str, ...], x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]
    ) -> list[Any]:
        call = self._call(names, x1, x2, params, kwargs, planned=False)
        if self.options.store is not None:
            with locked(self.options.store):
                return self._on_disk(call)
        plan, compute = self._prepared(call)
        kept = InMemory(arrays_of(plan, call, compute.halves))
        self._fill(call, plan, compute, kept.arrays, kept)
        return trees(call, compute.halves, kept.kernels)

    def _on_disk(self, call: Call) -> list[Any]:
        from . import __version__

        store, size = self.options.store, self.options.batch_size
        group = opened(store, "r+")
        # Part of the key: what is compiled must be what the store says, whatever `f` closes over.
        function = function_digest(call)
        if group is None:  # what does not fit is refused before all is read for the fingerprint
            plan, compute = self._prepared(call, function)
            found = fingerprint(call, function, __version__)
        else:
            found = fingerprint(call, function, __version__)
            recipe = recipe_of(group, store, found, size)
            done, of = progress_of(group, store)
            plan, compute = self._prepared(call, function, recipe, finished=done == of > 0)
        arrays = arrays_of(plan, call, compute.halves)
        about = {
            "fingerprint": found,
            "kernels": list(call.names),
            "outputs": list(compute.halves.examples[0].meta.names),
            "examples": [plan.n, plan.m],
            "jax": jax.__version__,
        }
        group = created(store, plan, arrays, about)
        self._fill(call, plan, compute, arrays, OnDisk(group, store, arrays))
        group = opened(store)
        return trees(call, compute.halves, [group[a.name] for a in arrays])

    def _call(
        self,
        names: tuple[str, ...],
        x1: Any,
        x2: Any,
        params: Any,
        kwargs: dict[str, Any],
        *,
        planned: bool,
    ) -> Call:
        fn = self.fn
        if fn.ntk_fn.vmap_axes is None:
            fn = replace(fn, ntk_fn=fn.ntk_fn.varied(vmap_axes=0))
        both = sides(x1, x2, fn.ntk_fn.vmap_axes, kwargs, planned=planned)
        return Call(fn, names, both, params)

    def _plan(
        self, call: Call, recipe: Recipe | None = None, *, finished: bool = False
    ) -> tuple[BlockPlan, Halves]:
        memory = ANY if finished else self.options.memory  # what is there needs none
        if memory is None:
            memory = int(SHARE * min(free(), host_free()))
        size, on_disk = self.options.batch_size, self.options.store is not None
        return plan_blocks(call, budget(memory), size, on_disk=on_disk, recipe=recipe)

    def _prepared(
        self,
        call: Call,
        function: str = "",
        recipe: Recipe | None = None,
        *,
        finished: bool = False,
    ) -> tuple[BlockPlan, Compute]:
        """The plan, and what is compiled for it: once for calls of the same shapes.

        A new plan comes before an `f` that mixes examples is refused, and that before a store. It
        is checked once for each plan; a finished kernel was, when it was computed.
        """
        shapes = [(side.n, *side.shapes(1)) for side in call.sides[: 2 - call.same]]
        shape = call_key(*split_arrays((call.names, shapes, call.params)))

        def key() -> Any:
            return shape, call.fn.ntk_fn.distrusted, function, recipe, finished

        found = self._compiled.get(key())
        if found is None:
            plan, halves = self._plan(call, recipe, finished=finished)
            if call.fn.ntk_fn.check_vmap and not finished and check(call):
                plan, halves = self._plan(call, recipe, finished=finished)
            found = plan, Compute(plan, halves, call)
            if shape is not None:
                self._compiled[key()] = found
        return found

    def _fill(
        self, call: Call, plan: BlockPlan, compute: Compute, arrays: Sequence[Array], kept: Kept
    ) -> None:
        finite = Finite(self.options.on_nonfinite)
        fill(call, plan, compute, arrays, kept, finite, progress=self.options.progress)
        finite.tell()


def of_floats(
    function: Callable[..., Any], x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]
) -> Any:
    """`function(x1, x2, params, kwargs)`, Python floats as arrays: another value compiles nothing.

    Where `f` asks for the value of one, floats are part of what is compiled. That is seen when a
    call is planned, before anything is computed, in whatever `f` then raises. What is raised again
    is of another cause, and told as it was at first.
    """
    if any(type(leaf) is float for leaf in jax.tree.leaves((x1, x2, params, kwargs))):
        first, *others = map(floats_as_arrays, (x1, params, kwargs))
        second = first if x2 is x1 else floats_as_arrays(x2)
        try:
            return function(first, second, *others)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            try:
                return function(x1, x2, params, kwargs)
            except Exception:
                raise error from None
    return function(x1, x2, params, kwargs)


def trees(call: Call, halves: Halves, arrays: Sequence[Any]) -> list[Any]:
    """The arrays of every kernel in the tree of the outputs."""
    treedef = halves.examples[0].meta.treedef
    each = treedef.num_leaves
    parts = [arrays[a * each : (a + 1) * each] for a in range(len(call.names))]
    return [treedef.unflatten(part) for part in parts]


def check(call: Call) -> bool:
    """Refuse an `f` that mixes examples, if the first ones show it.

    Whether factors of a leaf are not to be trusted, which changes the plan.
    """
    fn = call.fn.ntk_fn
    trusted = fn.distrusted
    for side in call.sides[: 2 - call.same]:
        if side.n < 2:
            continue
        x, kwargs = side.block(0, min(side.n, CHECKED))
        if "ntk" in call.names:
            fn._check(fn._pair("factors", x, None, call.params, kwargs), MIXED)
        else:
            pair = pair_of(call, x, call.params, kwargs)
            check_examples_are_independent(pair.first, [], pair.names, MIXED)
    return fn.distrusted != trusted


MIXED = (
    "f mixes examples: {} for two examples together differs from each computed apart, so that its "
    "kernel is not that of its blocks. Batch statistics or one random key for a whole batch do "
    "this: fix the statistics, or give each example its own key. check_vmap=False of "
    "empirical_kernel_fn or empirical_ntk_fn skips this check."
)

# Examples among which two that differ are sought.
CHECKED = 16
