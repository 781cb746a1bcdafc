"""The mean of empirical kernels over random initialisations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from ._methods.kernel_fns import NtkImplementation
from ._shared.axes import Axes, VmapAxes, is_int
from ._shared.get import canonical_get, kernel_tuple
from ._shared.signature import takes
from .batching import batch
from .empirical import empirical_kernel_fn


def monte_carlo_kernel_fn(
    init_fn: Callable[..., Any],
    apply_fn: Callable[..., Any],
    key: Any,
    n_samples: int | Iterable[int],
    batch_size: int = 0,
    *,
    trace_axes: Axes = (-1,),
    diagonal_axes: Axes = (),
    vmap_axes: VmapAxes = None,
    implementation: NtkImplementation | int = NtkImplementation.AUTO,
    memory: int | str | None = None,
    precision: Any = None,
) -> MonteCarloKernelFn:
    """A function for the mean of empirical kernels over initialisations.

        NNGP   1/S sum_i f_i(x1) f_i(x2)^T        NTK   1/S sum_i J_i(x1) J_i(x2)^T

    of networks `f_i` with parameters drawn anew: an estimate of the kernels of a wide network, for
    layers that have no closed form.

    Args:
        init_fn: `init_fn(key, input_shape)`, with a pair of which the second are the parameters.
            Flax Linen's `init` is `lambda key, shape: (None, model.init(key, jnp.zeros(shape)))`.
        apply_fn: `apply_fn(params, x, **kwargs)`; it is given a key as `rng`, another one for each
            sample, if it takes that argument; not if you pass `rng=None`. Flax Linen's `apply` is
            given none: `lambda p, x, rng: model.apply(p, x, rngs={"dropout": rng})` is.
            `stax.Dropout` draws one mask for a batch, and wants `vmap_axes=None`.
        key: of `jax.random`.
        n_samples: how many; or increasing numbers, at each of which the mean so far is wanted.
        batch_size: examples of a block's side, for `batch`; 0 takes all at once, unless `memory`
            is given.
        trace_axes: see `empirical_ntk_fn`.
        diagonal_axes: see `empirical_ntk_fn`.
        vmap_axes: see `empirical_ntk_fn`; with blocks, `None` is taken as 0.
        implementation: see `NtkImplementation`.
        memory: a budget, for `batch`.
        precision: see `empirical_ntk_fn`.

    Returns:
        `kernel_fn(x1, x2, get, **kwargs)`: the kernels that `get` names, both by default, of the
        shapes that `empirical_kernel_fn` gives. With several numbers of samples a generator of
        them, one for each.

    Raises:
        ValueError: no positive number of samples; see also `empirical_ntk_fn`.
        TypeError: an `init_fn` that returns no pair.

    Cost: a kernel for each sample, compiled once; the error falls with one over the square root of
    their number, and of the width.

    Source: Novak et al., "Bayesian Deep Convolutional Networks with Many Channels are Gaussian
    Processes" (2019), section 4.

    Example:
        >>> import jax, tangax as nt
        >>> from tangax import stax
        >>> init_fn, apply_fn, _ = stax.serial(stax.Dense(64), stax.Relu(), stax.Dense(4))
        >>> key = jax.random.key(0)
        >>> kernel_fn = nt.monte_carlo_kernel_fn(init_fn, apply_fn, key, (1, 4), vmap_axes=0)
        >>> x = jax.random.normal(key, (5, 3))
        >>> [k.shape for k in kernel_fn(x, None, "ntk")]
        [(5, 5), (5, 5)]
    """
    several = isinstance(n_samples, Iterable)
    counts = tuple(n_samples) if isinstance(n_samples, Iterable) else (n_samples,)
    if not counts or not all(is_int(count) and count > 0 for count in counts):
        raise ValueError(f"n_samples must be positive integers, one or several; got {n_samples!r}.")
    if list(counts) != sorted(set(counts)):
        raise ValueError(f"n_samples must increase, as the means are given; got {n_samples!r}.")
    if not is_int(batch_size) or batch_size < 0:
        raise ValueError(f"batch_size must be an integer, 0 for no blocks; got {batch_size!r}.")
    kernel_fn: Any = empirical_kernel_fn(
        apply_fn, trace_axes, diagonal_axes, vmap_axes, implementation, precision=precision
    )
    if batch_size or memory is not None:
        kernel_fn = batch(kernel_fn, batch_size or None, memory=memory)
    wanted = tuple(map(int, counts))
    return MonteCarloKernelFn(init_fn, apply_fn, key, wanted, several, kernel_fn)


@dataclass(frozen=True, eq=False)
class MonteCarloKernelFn:
    """The function that `monte_carlo_kernel_fn` returns."""

    init_fn: Callable[..., Any]
    apply_fn: Callable[..., Any]
    key: Any
    counts: tuple[int, ...]
    several: bool
    kernel_fn: Any

    def __call__(self, x1: Any, x2: Any = None, get: Any = None, **kwargs: Any) -> Any:
        """The mean of the kernels that `get` names; a generator of it for several counts."""
        means = self._means(canonical_get(get), isinstance(get, str), x1, x2, kwargs)
        return means if self.several else next(means)

    def _means(
        self, names: tuple[str, ...], single: bool, x1: Any, x2: Any, kwargs: dict[str, Any]
    ) -> Iterator[Any]:
        shape = jax.tree.map(lambda x: x.shape, x1)
        random = takes(self.apply_fn, "rng") and not takes(self.apply_fn, "rngs", by_name=True)
        key, total = self.key, None
        for count in range(1, self.counts[-1] + 1):
            key, sample = jax.random.split(key)
            init_key, rng = jax.random.split(sample)
            params = self._drawn(init_key, shape)
            own = {"rng": rng} | kwargs if random else dict(kwargs)
            if own.get("rng", rng) is None:
                del own["rng"]
            kernels = tuple(self.kernel_fn(x1, x2, names, params, **own))
            total = kernels if total is None else jax.tree.map(lambda a, b: a + b, total, kernels)
            if count in self.counts:
                mean = jax.tree.map(lambda a, count=count: a / count, total)
                yield mean[0] if single else kernel_tuple(names)(*mean)

    def _drawn(self, key: Any, shape: Any) -> Any:
        """Parameters; of an `init_fn` that wants inputs or returns no pair, how it is wrapped."""
        wrap = (
            "init_fn is called as init_fn(key, input_shape) and returns (output_shape, params). An "
            "init(key, x) that returns parameters, such as Flax Linen's, is passed as "
            "lambda key, shape: (None, model.init(key, jnp.zeros(shape)))."
        )
        try:
            found = self.init_fn(key, shape)
        except Exception as error:
            error.add_note(f"input_shape was {shape}. {wrap}")
            raise
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise TypeError(f"init_fn returned {type(found).__name__}, no pair. {wrap}")
        return found[1]
