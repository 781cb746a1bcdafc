"""A batched call, from its arguments to its kernels: planned, checked, computed, stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._arguments.inputs import warn_of_pairs
from .._methods.checking import check_arguments
from .._methods.kernel_fns import KernelFn
from .._shared.compiled import Split
from .._shared.memory import budget, free, host_free
from .._shared.meshes import gathered, shapes_gathered
from .._shared.settings import default_promotion
from .._shared.trees import numbers_as_arrays, split_arrays
from .._shared.tuning import RUN_SHARE
from .examples import check_values, read_sides
from .fill import Compute, Destination, fill, tqdm_class
from .fingerprint import fingerprint, function_digest
from .halves import ANY, Call, Halves
from .nonfinite import Finite
from .place import locked
from .plan import BlockPlan, Recipe, plan_blocks
from .store import OnDisk, created, opened, progress_of, recipe_of, recipe_there
from .tiles import InMemory, arrays_of


@dataclass(frozen=True)
class Options:
    """The arguments of `batch`."""

    batch_size: int | None
    memory: int | str | None
    store: Any
    progress: bool
    on_nonfinite: str


@dataclass(frozen=True, eq=False)
class Batched:
    """Kernels in blocks."""

    fn: KernelFn
    options: Options
    # Plans and compiled functions by the shapes of calls.
    _compiled: dict[Any, tuple[BlockPlan, Compute]] = field(default_factory=dict, init=False)
    # Calls whose `f` was checked: once for each shape, also where values cannot be hashed.
    _checked: set[Any] = field(default_factory=set, init=False)

    @default_promotion()
    def plan(self, names: tuple[str, ...], *args: Any) -> BlockPlan:
        """What `run` will do; where there is a store already, in the blocks of that.

        `args`, here and below: `x1, x2, params, kwargs`.
        """
        return _of_numbers(partial(self._planned, names), shapes_gathered(args))

    def _planned(self, names: tuple[str, ...], *args: Any) -> BlockPlan:
        call = self._call(names, *args, planned=True)
        recipe, store = None, self.options.store
        if store is not None and (group := opened(store)) is not None:
            examples = list(call.lengths)
            recipe = recipe_there(group, store, examples, self.options.batch_size)
        return self._plan(call, recipe)[0]

    @default_promotion()
    def run(self, names: tuple[str, ...], *args: Any) -> list[Any]:
        """The kernels by name."""
        if self.options.progress:
            tqdm_class()
        check_values(args)
        x1, x2, params, kwargs = gathered(args)
        warn_of_pairs(self.fn.ntk_fn.method.remembered.warned, x2, kwargs)
        params = jax.tree.map(lambda w: jnp.asarray(w) if isinstance(w, np.ndarray) else w, params)
        return _of_numbers(partial(self._run, names), (x1, x2, params, kwargs))

    def _run(self, names: tuple[str, ...], *args: Any) -> list[Any]:
        call = self._call(names, *args, planned=False)
        if self.options.store is not None:
            with locked(self.options.store):
                return self._on_disk(call)
        plan, compute = self._prepared(call)
        destination = InMemory(arrays_of(plan, call, compute.halves))
        self._fill(call, plan, compute, destination)
        return _trees(call, compute.halves, destination.kernels)

    def _on_disk(self, call: Call) -> list[Any]:
        from .. import __version__

        store, size = self.options.store, self.options.batch_size
        group = opened(store, "r+")
        # Part of the key: what is compiled must be what the store says, whatever `f` closes over.
        function = function_digest(call)
        if group is None:  # what does not fit is refused before all is read for the fingerprint
            plan, compute = self._prepared(call, function)
            told = fingerprint(call, function, __version__)
        else:
            told = fingerprint(call, function, __version__)
            recipe = recipe_of(group, store, told, size)
            done, of = progress_of(group, store)
            plan, compute = self._prepared(call, function, recipe, finished=done == of > 0)
        arrays = arrays_of(plan, call, compute.halves)
        about = {
            "fingerprint": told,
            "kernels": list(call.names),
            "outputs": list(compute.halves.examples.first.meta.names),
            "examples": [plan.n, plan.m],
            "jax": jax.__version__,
        }
        group = created(store, plan, arrays, about)
        self._fill(call, plan, compute, OnDisk(group, store, arrays))
        group = opened(store)
        return _trees(call, compute.halves, [group[a.name] for a in arrays])

    def _call(self, names: tuple[str, ...], *args: Any, planned: bool) -> Call:
        x1, x2, params, kwargs = args
        fn = self.fn
        if fn.ntk_fn.vmap_axes is None:
            fn = replace(fn, ntk_fn=fn.ntk_fn.varied(vmap_axes=0))
        both = read_sides(x1, x2, fn.ntk_fn.vmap_axes, kwargs, planned=planned)
        return Call(fn, names, both, params)

    def _plan(
        self, call: Call, recipe: Recipe | None = None, *, finished: bool = False
    ) -> tuple[BlockPlan, Halves]:
        memory = ANY if finished else self.options.memory  # what is there needs none
        if memory is None:
            memory = int(RUN_SHARE * min(free(), host_free()))
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
        is checked once for calls of the same shapes; a finished kernel was, when it was computed.
        """
        shapes = [(side.n, *side.shapes(1)) for side in call.sides.distinct]
        split = Split(*split_arrays((call.names, shapes, call.params)))

        def key() -> Any:
            return split.key, call.fn.ntk_fn.distrusted, function, recipe, finished

        prepared = self._compiled.get(key())
        if prepared is None:
            plan, halves = self._plan(call, recipe, finished=finished)
            checks = (call.names, call.lengths, function, split.id)
            if not finished and checks not in self._checked:
                if _check(call):
                    plan, halves = self._plan(call, recipe)
                self._checked.add(checks)
            prepared = plan, Compute(plan, halves, call)
            if split.key is not None:
                self._compiled[key()] = prepared
        return prepared

    def _fill(
        self, call: Call, plan: BlockPlan, compute: Compute, destination: Destination
    ) -> None:
        finite = Finite(self.options.on_nonfinite)
        fill(call, plan, compute, destination, finite, progress=self.options.progress)
        finite.tell()


def _of_numbers(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """`function(*args)`, Python's numbers as arrays: another value compiles nothing.

    Where `f` asks for the value of one, they are part of what is compiled. That is seen when a call
    is planned, before anything is computed, in whatever `f` then raises. What is raised again is of
    another cause, and told as it was at first.
    """
    if not any(type(leaf) in (float, complex) for leaf in jax.tree.leaves(args)):
        return function(*args)
    try:
        return function(*numbers_as_arrays(args))
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        try:
            return function(*args)
        except Exception:
            raise error from None


def _trees(call: Call, halves: Halves, arrays: Sequence[Any]) -> list[Any]:
    treedef = halves.examples.first.meta.treedef
    each = treedef.num_leaves
    parts = [arrays[a * each : (a + 1) * each] for a in range(len(call.names))]
    return [treedef.unflatten(part) for part in parts]


def _check(call: Call) -> bool:
    """Refuse an `f` that mixes examples, if the first ones show it.

    Whether factors of a leaf are not to be trusted, which changes the plan.
    """
    fn = call.fn.ntk_fn
    if not fn.check_vmap:
        return False
    trusted = fn.distrusted
    for side in call.sides.distinct:
        if side.n < 2:
            continue
        x, kwargs = side.block(0, min(side.n, _CHECKED))
        by_factors = "ntk" in call.names and fn.has_plan
        given = call.read(x, call.params, kwargs)
        check_arguments(given, fn.method.remembered.distrusted, by_factors=by_factors, mixed=_MIXED)
    return fn.distrusted != trusted


_MIXED = (
    "f mixes examples: {} for two examples together differs from each computed apart, so that its "
    "kernel is not that of its blocks. Batch statistics or one random key for a whole batch do "
    "this: fix the statistics, or give each example its own key. check_vmap=False of "
    "empirical_kernel_fn or empirical_ntk_fn skips this check."
)

# Examples among which two that differ are sought.
_CHECKED = 16
