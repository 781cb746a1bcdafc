"""What the `empirical_*_fn` return: functions of the inputs and the parameters, as values."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from .._arguments.inputs import warn_of_pairs
from .._arguments.mixing import (
    MIXED,
    check_examples_are_independent,
    many_examples,
    rows_look_independent,
)
from .._arguments.sides import (
    Pair,
    Side,
    pair_sides,
    warn_once,
)
from .._engine.explain import Plan, make_plan
from .._engine.kernel import check_memory, frames, kernels, plan_outputs
from .._engine.linearise import Factors, Source, check_halves, linearise, logger, unfactored
from .._engine.nngp import finish, nngp
from .._engine.output_axes import Frame
from .._engine.plan import OutputPlan
from .._shared.axes import Axes, VmapAxes, split_vmap_axes
from .._shared.compiled import Compiled
from .._shared.get import canonical_get, is_get, kernel_tuple
from .._shared.memory import budget, nbytes
from .._shared.meshes import gathered, shapes_gathered
from .._shared.precision import check_precision, full_precision
from .._shared.trees import floats_as_arrays, has_values, join_arrays, split_arrays
from .checking import differences, entrances, warn_of_difference
from .plain import jacobian_contraction, ntk_vector_products


class NtkImplementation(enum.IntEnum):
    """How an NTK is computed. All give the same kernel.

    `AUTO`: factors of the Jacobian, leaf by leaf, each contracted in the cheapest order.

    `JACOBIAN_CONTRACTION`: both Jacobians whole, then one contraction. Time: a backward pass for
    each output of each example, and `n*m*o*q*p` multiply-adds; memory: `(n+m)*o*p`.

    `NTK_VECTOR_PRODUCTS`: column by column, `J(x1) (J(x2)^T e)`. Time: `n*m*q` forward passes;
    memory: `m*q*p` and the activations of as many passes, but no Jacobian of `x1`. Needs forward
    mode.

    `STRUCTURED_DERIVATIVES`: as `AUTO`, but every leaf stays factored that can be.

    All are analysed in Novak, Sohl-Dickstein, Schoenholz, "Fast Finite Width Neural Tangent
    Kernel" (2022), sections 3.1 to 3.4.
    """

    AUTO = 0
    JACOBIAN_CONTRACTION = 1
    NTK_VECTOR_PRODUCTS = 2
    STRUCTURED_DERIVATIVES = 3


_PLAIN = {
    NtkImplementation.JACOBIAN_CONTRACTION: jacobian_contraction,
    NtkImplementation.NTK_VECTOR_PRODUCTS: ntk_vector_products,
}


def check_function(f: Any) -> None:
    """`f` can be called; a layer of `stax` is a triple, of which the second is meant."""
    if not callable(f):
        what = "a layer: pass its apply_fn" if hasattr(f, "apply_fn") else type(f).__name__
        raise TypeError(f"f must be a function f(params, x), got {what}.")


@dataclass(frozen=True, eq=False)
class NngpFn:
    """The function that `empirical_nngp_fn` returns."""

    f: Callable[..., Any]
    trace_axes: Axes = (-1,)
    diagonal_axes: Axes = ()
    precision: Any = None
    # Whether a warning was given.
    _warned: set[Any] = field(default_factory=set, init=False, repr=False)
    # Compiled for calls outside `jit`.
    _compiled: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_function(self.f)
        check_precision(self.precision)
        object.__setattr__(self, "_compiled", Compiled(self._compute))

    def __call__(self, x1: Any, x2: Any, params: Any, **kwargs: Any) -> Any:
        """The kernel `f(x1) f(x2)^T`. `x2=None` means `x2=x1`, computed once.

        Outside `jit` it is compiled at the first call for each shape.
        """
        warn_of_pairs(self._warned, x2, kwargs)
        return self._compiled(x1, x2, floats_as_arrays(params), kwargs)

    def _compute(self, x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]) -> Any:
        with full_precision(self.precision):
            pair = pair_sides(self.f, x1, x2, params, None, kwargs, differentiate=False)
            axes = pair.axes(self.trace_axes, self.diagonal_axes)
            warn_once(self._warned, pair, axes, x1)
            y1 = pair.first.batch([], [])
            y2 = y1 if pair.same else pair.second.batch([], [])
            return nngp(y1, y2, axes, pair.treedef)


@dataclass(frozen=True, eq=False)
class NtkFn:
    """The function that `empirical_ntk_fn` returns."""

    f: Callable[..., Any]
    trace_axes: Axes = (-1,)
    diagonal_axes: Axes = ()
    vmap_axes: VmapAxes = None
    implementation: NtkImplementation | int = NtkImplementation.AUTO
    check_vmap: bool = True
    memory: int | str | None = None
    precision: Any = None
    # Calls that were checked before, by shapes and static arguments, with the leaves compared.
    _checked: dict[Any, tuple[str, ...]] = field(default_factory=dict, init=False, repr=False)
    # Leaves whose factors gave another derivative than `f` itself.
    _distrusted: set[str] = field(default_factory=set, init=False, repr=False)
    # Whether a warning was given.
    _warned: set[Any] = field(default_factory=set, init=False, repr=False)
    # Leaves that are not factored, once named in the log.
    _logged: set[str] = field(default_factory=set, init=False, repr=False)
    # Compiled for calls outside `jit`.
    _compiled: Any = field(default=None, init=False, repr=False)
    _contracted: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_function(self.f)
        split_vmap_axes(self.vmap_axes)
        check_precision(self.precision)
        if self.implementation not in list(NtkImplementation):
            valid = ", ".join(f"{i.name} = {i.value}" for i in NtkImplementation)
            raise ValueError(f"implementation must be one of {valid}; got {self.implementation!r}.")
        if self.memory is not None:
            budget(self.memory)
            if self.implementation in _PLAIN:
                name = NtkImplementation(self.implementation).name
                msg = f"memory bounds AUTO and STRUCTURED_DERIVATIVES; {name} holds what it holds."
                raise ValueError(msg)
        object.__setattr__(self, "_compiled", Compiled(self._compute))
        object.__setattr__(self, "_contracted", jax.jit(self._halves, static_argnums=2))

    def __call__(self, x1: Any, x2: Any, params: Any, **kwargs: Any) -> Any:
        """The kernel `J(x1) J(x2)^T`. `x2=None` means `x2=x1`, computed once.

        Outside `jit` it is compiled at the first call for each shape.
        """
        (kernel,) = self._run(("ntk",), x1, x2, params, kwargs)
        return kernel

    def factors(self, x: Any, params: Any, **kwargs: Any) -> Factors:
        """The factors of the Jacobian at `x`, one half of a kernel, whatever the implementation.

        `contract(factors(x1), factors(x2))` equals the kernel: a caller with many blocks of
        examples computes each block's factors once. They may hold more than the Jacobian;
        `jax.eval_shape(ntk_fn.factors, x, params)` tells. Factors are a pytree of arrays, and
        belong together: they cannot be sliced or concatenated. Keyword arguments belong to `x`: a
        tuple of two is not split here, and an `rng` is taken as it is, though a kernel folds it
        for `x2`.
        """
        return self._run("factors", x, None, params, kwargs)

    def contract(self, factors1: Factors, factors2: Factors | None = None) -> Any:
        """The kernel of two sets of factors; of `factors1` with itself where one is given.

        Raises `TypeError` for what are not factors, `ValueError` for factors of other parameters or
        outputs, or that were cut or joined.
        """
        same = factors2 is None or factors2 is factors1
        check_halves(factors1, factors1 if same else factors2)
        return self._contracted(factors1, factors1 if same else factors2, same)

    def explain(self, x1: Any, x2: Any, params: Any, **kwargs: Any) -> Plan:
        """The plan of a call, as a value that prints as a table. Computes nothing.

        `x1`, `x2` and `params` may hold `jax.ShapeDtypeStruct`s in place of arrays. The columns:

        - leaf, shape: the parameter; "-> name" says of which output, if `f` has several.
        - enters at: the equation of the jaxpr that uses it, and your line.
        - kind: how that is factored, named for the equation: "bias" is any sum, "scale" any
          product with data, entry by entry; "generic" is not factored, and a line below says why.
        - factors, of one example: `A[s, k, i] G[o, s, k, j]`, whose product over `s` is the
          Jacobian; `s` counts places that share the parameter (tokens, pixels, steps in time), `k`
          groups or layers, `i` inputs, `j` units, `o` outputs. `J[o, p]` is the Jacobian
          itself: where that is as small, or where sites of several kinds overlap in the leaf.
        - order: "materialise" multiplies `A` and `G` out to Jacobians, "gram" contracts `A` with
          `A` and `G` with `G`, "gram first" and "gram second" `A` with `A`, then with one `G` after
          the other, "first" and "second" multiply one side out; then the number of examples of x1
          and of x2 taken at a time.
        - MACs: multiply-adds. largest: entries of the intermediates that stand beside each other.

        Below them the blocks in which outputs are taken, if not all at once, with the
        backward passes of x1 + x2; multiply-adds in all; bytes of the arguments, of the kernel, an
        estimate of what is held besides, and the budget `memory`.

        Raises `ValueError` for the two implementations that have no plan.
        """
        static, arrays = split_arrays((x1, x2, params, kwargs))
        plans: list[Plan] = []
        if self.implementation in _PLAIN:
            name = NtkImplementation(self.implementation).name
            raise ValueError(
                f"{name} has no plan: explain tells of AUTO and STRUCTURED_DERIVATIVES."
            )

        def planned(arrays: list[Any]) -> None:
            plans.append(self._plan(nbytes(arrays), *join_arrays(static, arrays)))

        with full_precision(self.precision):
            jax.eval_shape(planned, shapes_gathered(arrays))
        found = self._checked_at(x1, x2, floats_as_arrays(params), kwargs)
        return replace(plans[0], checked=found, distrusted=self.distrusted)

    def check(self, x: Any, params: Any, **kwargs: Any) -> dict[str, float]:
        """Check by hand what a call outside `jit` checks by itself, at two examples of `x`.

        That `f` does not mix examples, where `vmap_axes` is given; and that `v^T J`, for random
        `v`, is the same by the factors and by `jax.vjp` of `f`, leaf by leaf. A leaf that differs
        by more than rounding is said in a warning, and its whole Jacobian is taken from `jax.vjp`
        from then on, in what is compiled for this function already and in what is traced later.
        Call it once before you wrap an `ntk_fn` in `jax.jit`.

        Returns:
            By the path of every leaf the largest difference, over what rounding explains: below
            one is right, `nan` that nothing is finite. Empty where there are no factors: for
            implementations 1 and 2, and where `f` has no reverse mode.

        Raises:
            ValueError: `f` mixes examples.
            TypeError: arguments without values, as under `jit`.

        Cost: two backward passes of two examples (with `vmap_axes=None` of `x`), and compiling
        them: about as long as compiling the kernel takes.

        Example:
            >>> import jax, tangax as nt
            >>> f = lambda w, x: jax.numpy.tanh(x @ w["a"]) @ w["b"]
            >>> a, b, x = jax.random.normal(jax.random.key(0), (3, 4, 4))
            >>> found = nt.empirical_ntk_fn(f, vmap_axes=0).check(x, {"a": a, "b": b})
            >>> sorted(found), max(found.values()) < 1
            (["params['a']", "params['b']"], True)
        """
        if not has_values((x, params, kwargs)):
            raise TypeError(
                "check needs arguments with values: call it outside jit, vmap and grad."
            )
        x, params, kwargs = gathered((x, params, kwargs))
        return self._check(self._pair("factors", x, None, params, kwargs))

    def varied(self, **options: Any) -> NtkFn:
        """The same with other options; leaves that are not trusted are those of both."""
        other = replace(self, **options)
        object.__setattr__(other, "_distrusted", self._distrusted)
        return other

    # Calls

    def _run(self, what: Any, x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]) -> Any:
        """Check what was not seen before, then compute."""
        if what != "factors":
            warn_of_pairs(self._warned, x2, kwargs)
        args = x1, x2, floats_as_arrays(params), kwargs
        call = what, self.distrusted, *args
        split = self._compiled.split(call)
        found = None
        if self.check_vmap and call_id(what, split) not in self._checked and has_values(args):
            found = tuple(self._check(self._pair(what, *gathered((x1, x2, params, kwargs)))))
            call = what, self.distrusted, *args
            split = self._compiled.split(call)
        if self.vmap_axes is None and self.check_vmap and "rows" not in self._warned:
            self._advise(*gathered((x1, params, kwargs)))
        result = self._compiled.run(call, split)
        if found is not None:  # as it ran, after all
            self._checked[call_id(what, self._compiled.split(call))] = found
        return result

    def _compute(
        self,
        what: Any,
        distrusted: tuple[str, ...],
        x1: Any,
        x2: Any,
        params: Any,
        kwargs: dict[str, Any],
    ) -> Any:
        """What is asked for: "factors" of x1, or a tuple of kernels by name.

        `distrusted` tells programs apart that are compiled.
        """
        with full_precision(self.precision):
            pair = self._pair(what, x1, x2, params, kwargs)
            if what == "factors":
                return self._source(pair, pair.first).whole()
            axes = pair.axes(self.trace_axes, self.diagonal_axes)
            warn_once(self._warned, pair, axes, x1)
            if self.implementation in _PLAIN:
                plain = _PLAIN[NtkImplementation(self.implementation)](pair, axes)
                return (finish(pair.same, pair.treedef, axes, plain),)
            first = self._source(pair, pair.first)
            second = first if pair.same else self._source(pair, pair.second)
            return self._kernels(what, first, second)

    def _halves(self, first: Factors, second: Factors, same: bool) -> Any:
        """The NTK at the precision asked for; of one side with itself, pairs are symmetric."""
        with full_precision(self.precision):
            return self._kernels(("ntk",), first, first if same else second)[0]

    def _pair(self, what: Any, x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]) -> Pair:
        """Both sides; one of them for factors, whose keyword arguments are not pairs."""
        split = what != "factors"
        return pair_sides(
            self.f, x1, x2, params, self.vmap_axes, kwargs, differentiate=True, split=split
        )

    def _side(self, x: Any, params: Any, kwargs: dict[str, Any]) -> Source:
        """The factors of one side, on demand."""
        pair = self._pair("factors", x, None, params, kwargs)
        return self._source(pair, pair.first)

    def _source(self, pair: Pair, side: Side) -> Source:
        source = linearise(pair, side, self._distrusted)
        for leaf, why in unfactored(source).items():
            path = pair.params.paths[leaf]
            if path not in self._logged:
                logger.info("The Jacobian of %s is not factored: %s.", path, why)
                self._logged.add(path)
        return source

    def _kernels(self, names: tuple[str, ...], first: Source, second: Source) -> Any:
        """What is asked for, of two sides. A budget that will be exceeded is told of."""
        every, plans = self._planned(first, second)
        check_memory(plans, budget(self.memory))
        return kernels(names, first, second, every, plans)

    def _planned(self, first: Source, second: Source) -> tuple[list[Frame], list[OutputPlan]]:
        """The frame and the plan of every output."""
        every = frames(first.meta, second.meta, self.trace_axes, self.diagonal_axes)
        memory = budget(self.memory)
        return every, plan_outputs(first, second, every, memory, factored=self._factored)

    @property
    def has_plan(self) -> bool:
        """Whether it goes by factors, within a budget."""
        return self.implementation not in _PLAIN

    @property
    def _factored(self) -> bool:
        return self.implementation == NtkImplementation.STRUCTURED_DERIVATIVES

    def _plan(self, arguments: int, x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]) -> Plan:
        pair = self._pair("ntk", x1, x2, params, kwargs)
        return make_plan(
            pair,
            self.trace_axes,
            self.diagonal_axes,
            arguments=arguments,
            memory=budget(self.memory),
            factored=self._factored,
            distrusted=self._distrusted,
        )

    # Checks

    @property
    def distrusted(self) -> tuple[str, ...]:
        """Leaves whose factors gave another derivative than `f` itself."""
        return tuple(sorted(self._distrusted))

    def _checked_at(self, *args: Any) -> tuple[str, ...] | None:
        """The leaves that were compared at a call of these shapes, for whichever kernels."""
        for what in (("ntk",), ("nngp", "ntk"), ("ntk", "nngp"), "factors"):
            split = self._compiled.split((what, self.distrusted, *args))
            found = self._checked.get(call_id(what, split))
            if found is not None:
                return found
        return None

    def _advise(self, x: Any, params: Any, kwargs: dict[str, Any]) -> None:
        """Name `vmap_axes=0`, once, where it seems right."""
        if not many_examples(x) or not has_values((x, params, kwargs)):
            return
        self._warned.add("rows")
        if rows_look_independent(self.f, x, params, kwargs):
            logger.warning(
                "f seems to treat the examples along axis 0 independently: with vmap_axes=0 the "
                "kernel takes as many times fewer backward passes as there are examples."
            )

    def _check(self, pair: Pair, mixed: str = MIXED) -> dict[str, float]:
        """Refuse an `f` that mixes examples; distrust factors that differ from its derivative.

        The message `mixed` says the former. By leaf the difference.
        """
        worst: dict[str, float] = {}
        for side in (pair.first,) if pair.same else (pair.first, pair.second):
            if self.implementation in _PLAIN:
                if side.n is not None:
                    check_examples_are_independent(side, pair.params.leaves, pair.names, mixed)
                continue
            for leaf, found in differences(pair, side, mixed).items():
                worst[leaf] = max(found, worst.get(leaf, 0.0))
        for leaf, found in worst.items():
            if found > 1 and leaf not in self._distrusted:
                self._distrusted.add(leaf)
                warn_of_difference(leaf, entrances(pair, leaf))
        return worst


def call_id(what: Any, split: tuple[Any, list[Any], Any]) -> Any:
    """Equal for calls that compile alike; where values cannot be hashed, for those of one shape."""
    _, arrays, key = split
    return (what, *((a.shape, a.dtype) for a in arrays)) if key is None else key


@dataclass(frozen=True, eq=False)
class KernelFn:
    """The function that `empirical_kernel_fn` returns."""

    nngp_fn: NngpFn
    ntk_fn: NtkFn

    def __call__(self, x1: Any, x2: Any, get: Any = None, params: Any = None, **kwargs: Any) -> Any:
        """The kernels that `get` names; `kernel_fn(x1, x2, params)` gives both."""
        names, single, params = self.request(get, params)
        kernels = self._kernels(names, x1, x2, params, kwargs)
        return kernels[0] if single else kernel_tuple(names)(*kernels)

    def explain(self, x1: Any, x2: Any, get: Any = None, params: Any = None, **kwargs: Any) -> Plan:
        """The plan of the NTK of a call, as `kernel_fn.ntk_fn.explain` gives it.

        `kernel_fn.ntk_fn` has `factors` and `contract` too. `ValueError` where no NTK is asked for.
        """
        names, _, params = self.request(get, params)
        if "ntk" not in names:
            raise ValueError("An NNGP has no plan: explain tells of the NTK.")
        return self.ntk_fn.explain(x1, x2, params, **kwargs)

    def request(self, get: Any, params: Any) -> tuple[tuple[str, ...], bool, Any]:
        """The kernels asked for, whether it is one by itself, and the parameters."""
        if params is None and not is_get(get):
            get, params = None, get
        if params is None:
            raise TypeError("kernel_fn needs params: call kernel_fn(x1, x2, get, params).")
        return canonical_get(get), isinstance(get, str), params

    def _kernels(self, names: Any, x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]) -> Any:
        """In the order of `names`. Both from one run of `f` where the method allows it."""
        if len(names) == 2 and self.ntk_fn.implementation not in _PLAIN:
            return self.ntk_fn._run(names, x1, x2, params, kwargs)
        functions = {"nngp": self.nngp_fn, "ntk": self.ntk_fn}
        return tuple(functions[name](x1, x2, params, **kwargs) for name in names)
