"""What the `empirical_*_fn` return: functions of the inputs and the parameters, as values."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from .._arguments.inputs import is_pair, warn_of_pairs
from .._arguments.mixing import many_examples, rows_look_independent
from .._arguments.sides import Arguments, read_arguments, read_one_side, warn_of_axes
from .._engine.explain import Plan
from .._engine.factors import Factors, check_factors
from .._engine.nngp import finish, nngp
from .._shared.axes import Axes, VmapAxes, split_vmap_axes
from .._shared.compiled import Compiled, Split
from .._shared.get import canonical_get, is_get, kernel_tuple
from .._shared.memory import budget, nbytes
from .._shared.meshes import gathered, shapes_gathered
from .._shared.pair import Pair
from .._shared.precision import check_precision, full_precision
from .._shared.trees import has_values, join_arrays, numbers_as_arrays, split_arrays
from .._shared.user_line import logger
from .checking import check_arguments
from .factored import FactorMethod
from .plain import jacobian_contraction, ntk_vector_products
from .remembered import Remembered


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


def _check_function(f: Any) -> None:
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
    _remembered: Remembered = field(default_factory=Remembered, init=False, repr=False)
    # Compiled for calls outside `jit`.
    _compiled: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_function(self.f)
        check_precision(self.precision)
        object.__setattr__(self, "_compiled", Compiled(self._compute))

    def __call__(self, x1: Any, x2: Any, params: Any, **kwargs: Any) -> Any:
        """The kernel `f(x1) f(x2)^T`. `x2=None` means `x2=x1`, computed once.

        Outside `jit` it is compiled at the first call for each shape.
        """
        warn_of_pairs(self._remembered.warned, x2, kwargs)
        return self._compiled(x1, x2, numbers_as_arrays(params), kwargs)

    def _compute(self, x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]) -> Any:
        with full_precision(self.precision):
            given = read_arguments(self.f, x1, x2, params, None, kwargs, differentiate=False)
            axes = given.axes(self.trace_axes, self.diagonal_axes)
            warn_of_axes(self._remembered.warned, given, axes, x1)
            return nngp(given.sides.map(lambda side: side.batch([], [])), axes, given.treedef)


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
    _remembered: Remembered = field(default_factory=Remembered, init=False, repr=False)
    # Compiled for calls outside `jit`, and what is distrusted tells their programs apart.
    _kernels: Compiled = field(init=False, repr=False)
    _factors: Compiled = field(init=False, repr=False)
    _contracted: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_function(self.f)
        split_vmap_axes(self.vmap_axes)
        check_precision(self.precision)
        if self.implementation not in list(NtkImplementation):
            valid = ", ".join(f"{i.name} = {i.value}" for i in NtkImplementation)
            raise ValueError(f"implementation must be one of {valid}; got {self.implementation!r}.")
        if self.memory is not None:
            budget(self.memory)
            if not self.has_plan:
                name = NtkImplementation(self.implementation).name
                msg = f"memory bounds AUTO and STRUCTURED_DERIVATIVES; {name} holds what it holds."
                raise ValueError(msg)
        object.__setattr__(self, "_kernels", Compiled(self._of_both))
        object.__setattr__(self, "_factors", Compiled(self._of_one))
        object.__setattr__(self, "_contracted", jax.jit(self._of_factors))

    def __call__(self, x1: Any, x2: Any, params: Any, **kwargs: Any) -> Any:
        """The kernel `J(x1) J(x2)^T`. `x2=None` means `x2=x1`, computed once.

        Outside `jit` it is compiled at the first call for each shape.
        """
        (kernel,) = self.kernels(("ntk",), x1, x2, params, kwargs)
        return kernel

    def kernels(
        self, names: tuple[str, ...], x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, ...]:
        """The kernels by name; of the plain methods the NTK alone."""
        warn_of_pairs(self._remembered.warned, x2, kwargs)
        return self._run(self._kernels, (names,), self._read, x1, x2, params, kwargs)

    def factors(self, x: Any, params: Any, **kwargs: Any) -> Factors:
        """The factors of the Jacobian at `x`, one half of a kernel, whatever the implementation.

        `contract(factors(x1), factors(x2))` equals the kernel: a caller with many blocks of
        examples computes each block's factors once. They may hold more than the Jacobian;
        `jax.eval_shape(ntk_fn.factors, x, params)` tells. Factors are a pytree of arrays, and
        belong together: they cannot be sliced or concatenated. Keyword arguments belong to `x`: a
        tuple of two is not split here, and an `rng` is taken as it is, though a kernel folds it
        for `x2`.
        """
        return self._run(self._factors, (), self._read_one, x, None, params, kwargs)

    def contract(self, factors1: Factors, factors2: Factors | None = None) -> Any:
        """The kernel of two sets of factors; of `factors1` with itself where one is given.

        Raises `TypeError` for what are not factors, `ValueError` for factors of other parameters or
        outputs, or that were cut or joined.
        """
        pair = Pair(factors1, None if factors2 is factors1 else factors2)
        check_factors(*pair.sides)
        return self._contracted(pair)

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
        if not self.has_plan:
            name = NtkImplementation(self.implementation).name
            raise ValueError(
                f"{name} has no plan: explain tells of AUTO and STRUCTURED_DERIVATIVES."
            )

        def planned(arrays: list[Any]) -> None:
            given = self._read(*join_arrays(static, arrays))
            plans.append(self.method.explain(given, nbytes(arrays)))

        with full_precision(self.precision):
            jax.eval_shape(planned, shapes_gathered(arrays))
        split = self._kernels.split((x1, x2, numbers_as_arrays(params), kwargs))
        checked = self._remembered.checked.get(self._id(self._kernels, kwargs, split))
        return replace(plans[0], checked=checked, distrusted=self.distrusted)

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
        return self._check(self._read_one(x, None, params, kwargs))

    def varied(self, **options: Any) -> NtkFn:
        """The same `f` with other options; what is remembered of it is that of both."""
        other = replace(self, **options)
        object.__setattr__(other, "_remembered", self._remembered)
        return other

    @property
    def has_plan(self) -> bool:
        """Whether it goes by factors, within a budget."""
        return self.implementation not in _PLAIN

    @property
    def method(self) -> FactorMethod:
        axes = self.trace_axes, self.diagonal_axes
        factored = self.implementation == NtkImplementation.STRUCTURED_DERIVATIVES
        return FactorMethod(*axes, self.memory, factored, self.precision, self._remembered)

    @property
    def distrusted(self) -> tuple[str, ...]:
        """Leaves whose factors gave another derivative than `f` itself."""
        return tuple(sorted(self._remembered.distrusted))

    # Calls

    def _run(
        self, entry: Compiled, names: tuple[Any, ...], read: Callable[..., Arguments], *args: Any
    ) -> Any:
        """Check what was not seen before, then compute."""
        x1, x2, params, kwargs = args
        call = x1, x2, numbers_as_arrays(params), kwargs
        split, known, checked = entry.split(call), self._remembered.checked, None
        if self.check_vmap and self._id(entry, kwargs, split) not in known and has_values(call):
            checked = tuple(self._check(read(*gathered(args))))
        if self.vmap_axes is None and self.check_vmap and "rows" not in self._remembered.warned:
            self._advise(*gathered((x1, params, kwargs)))
        result = entry.run(call, (*names, self.distrusted), split)
        if checked is not None:  # as it ran, after all
            known[self._id(entry, kwargs, entry.split(call))] = checked
        return result

    def _id(self, entry: Compiled, kwargs: dict[str, Any], split: Split) -> Any:
        """Equal for calls that are checked alike: of factors as of `x2=None`, but for pairs."""
        paired = entry is self._kernels and any(map(is_pair, kwargs.values()))
        return self.has_plan, repr(self.vmap_axes), paired, split.id

    def _of_both(self, names: tuple[str, ...], distrusted: Any, *args: Any) -> tuple[Any, ...]:
        with full_precision(self.precision):
            given = self._read(*args)
            axes = given.axes(self.trace_axes, self.diagonal_axes)
            warn_of_axes(self._remembered.warned, given, axes, args[0])
            if self.has_plan:
                return self.method.kernels(names, self.method.sources(given))
            kernels = _PLAIN[NtkImplementation(self.implementation)](given, axes)
            return (finish(given.sides.same, given.treedef, axes, kernels),)

    def _of_one(self, distrusted: Any, *args: Any) -> Factors:
        with full_precision(self.precision):
            return self.method.factors(self._read_one(*args))

    def _of_factors(self, factors: Pair[Factors]) -> Any:
        return self.method.kernels(("ntk",), factors)[0]

    def _read(self, x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]) -> Arguments:
        return read_arguments(self.f, x1, x2, params, self.vmap_axes, kwargs, differentiate=True)

    def _read_one(self, x: Any, x2: None, params: Any, kwargs: dict[str, Any]) -> Arguments:
        return read_one_side(self.f, x, params, self.vmap_axes, kwargs, differentiate=True)

    # Checks

    def _advise(self, x: Any, params: Any, kwargs: dict[str, Any]) -> None:
        """Name `vmap_axes=0`, once, where it seems right."""
        if not many_examples(x) or not has_values((x, params, kwargs)):
            return
        self._remembered.warned.add("rows")
        if rows_look_independent(self.f, x, params, kwargs):
            logger.warning(
                "f seems to treat the examples along axis 0 independently: with vmap_axes=0 the "
                "kernel takes as many times fewer backward passes as there are examples."
            )

    def _check(self, given: Arguments) -> dict[str, float]:
        return check_arguments(given, self._remembered.distrusted, by_factors=self.has_plan)


@dataclass(frozen=True, eq=False)
class KernelFn:
    """The function that `empirical_kernel_fn` returns."""

    nngp_fn: NngpFn
    ntk_fn: NtkFn

    def __call__(self, x1: Any, x2: Any, get: Any = None, params: Any = None, **kwargs: Any) -> Any:
        """The kernels that `get` names; `kernel_fn(x1, x2, params)` gives both."""
        names, single, params = self.request(get, params)
        kernels = self.kernels(names, x1, x2, params, kwargs)
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

    def kernels(self, names: Any, x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]) -> Any:
        """In the order of `names`. Both from one run of `f` where the method allows it."""
        if len(names) == 2 and self.ntk_fn.has_plan:
            return self.ntk_fn.kernels(names, x1, x2, params, kwargs)
        functions = {"nngp": self.nngp_fn, "ntk": self.ntk_fn}
        return tuple(functions[name](x1, x2, params, **kwargs) for name in names)
