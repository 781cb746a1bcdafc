"""Layers of `stax` against Neural Tangents.

`stax_reference.npz` holds what `benchmarks/reference_stax.py` computed with Neural Tangents 0.6.5
in float64: two kernels of x1 with x2 and of x1 with itself, and the outputs of finite networks.
"""

import functools
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from support import networks_of_stax
from support.arrays import QUICK
from support.networks_of_stax import CASES, LAYERS, M, N, filled, signature

from tangax import stax

REFERENCE = np.load(Path(networks_of_stax.__file__).with_name("stax_reference.npz"))


class Recording:
    """In place of `stax`: which layers a network is made of."""

    def __init__(self):
        self.layers = set()

    def __getattr__(self, name):
        return lambda *args, **options: self.layers.add(name)


def layers_of(name):
    recording = Recording()
    CASES[name].build(recording)
    return recording.layers


BY_DEFAULT = [name for name, case in CASES.items() if not case.full]


def names(default, of=tuple(CASES)):
    """Names of cases as parameters of a test; all but the default ones run with `--full` only."""
    return [pytest.param(n, marks=() if n in default else pytest.mark.full) for n in of]


def with_new_layers():
    """The cases that have a layer which no case before them has: all layers in few compilations."""
    seen, found = set(), []
    for name in BY_DEFAULT:
        if layers_of(name) - seen:
            found.append(name)
            seen |= layers_of(name)
    return found


ONE_OF_EACH_LAYER = with_new_layers()


def test_every_layer_is_run_by_default():
    tried = set().union(*map(layers_of, ONE_OF_EACH_LAYER))
    assert tried == set(LAYERS)


def test_every_pair_of_kind_padding_and_strides_is_run_by_default():
    def pairs(cases):
        traits = [case.traits for case in cases]
        return {pair for each in traits for pair in itertools.combinations(each, 2)}

    assert pairs(CASES[name] for name in BY_DEFAULT) == pairs(CASES.values())


def called(kernel_fn, x1, x2, pattern, *, quick):
    kwargs = {} if pattern is None else {"pattern": pattern}
    call = functools.partial(kernel_fn, **kwargs)
    return (jax.jit(call, compiler_options=QUICK) if quick else call)(x1, x2)._asdict()


def kernels_together(case, dtype, *, quick):
    """Of x1 and x2 joined, with itself: one program for all that the reference has."""
    both = [case.inputs(n, seed).astype(dtype) for n, seed in ((N, 0), (M, 1))]
    pattern = None
    if case.pattern is not None:
        pattern = np.concatenate([case.patterns(N, 0), case.patterns(M, 1)])
    x = np.concatenate(both, case.batch_axis)
    found = called(case.build(stax).kernel_fn, x, None, pattern, quick=quick)
    of_itself = {f"{kind} itself": kernel[:N, :N] for kind, kernel in found.items()}
    return of_itself | {kind: kernel[:N, N:] for kind, kernel in found.items()}


def kernels_apart(case, dtype, *, quick):
    """Of x1 with x2."""
    x1, x2 = (case.inputs(n, seed).astype(dtype) for n, seed in ((N, 0), (M, 1)))
    pattern = None
    if case.pattern is not None:
        pattern = case.patterns(N, 0), case.patterns(M, 1)
    return called(case.build(stax).kernel_fn, x1, x2, pattern, quick=quick)


def difference(kernel, expected):
    """The largest relative error; entries near zero count as a hundredth of the largest."""
    scale = np.abs(expected) + 0.01 * np.abs(expected).max()
    return (np.abs(kernel - expected) / scale).max()


def check(name, kernels, dtype, tolerances):
    for kind, kernel in kernels.items():
        expected = REFERENCE[f"{name}/{kind}"]
        assert kernel.shape == expected.shape
        assert kernel.dtype == dtype
        assert difference(kernel, expected) < tolerances[kind], kind


# Of convolutions, its NTK of an image with itself has the root of a rounding error in it.
EXACT = {"nngp": 1e-10, "ntk": 1e-10, "nngp itself": 1e-10, "ntk itself": 5e-9}
SINGLE = dict.fromkeys(EXACT, 1e-5)


@pytest.mark.parametrize("name", names(BY_DEFAULT))
def test_kernels_equal_those_of_neural_tangents(name):
    check(name, kernels_together(CASES[name], np.float64, quick=True), np.float64, EXACT)


@pytest.mark.parametrize("name", names(ONE_OF_EACH_LAYER))
def test_kernels_of_two_inputs_equal_those_of_neural_tangents(name):
    check(name, kernels_apart(CASES[name], np.float64, quick=True), np.float64, EXACT)


@pytest.mark.parametrize("name", names(sorted(ONE_OF_EACH_LAYER)[::3]))
def test_kernels_of_two_inputs_in_float32(name):
    check(name, kernels_apart(CASES[name], np.float32, quick=False), np.float32, SINGLE)


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_kernels_in_float32(name):
    check(name, kernels_together(CASES[name], np.float32, quick=False), np.float32, SINGLE)


@pytest.mark.parametrize(
    "name", names(BY_DEFAULT, [name for name, case in CASES.items() if not case.random])
)
def test_finite_networks_equal_those_of_neural_tangents(name):
    case = CASES[name]
    init_fn, apply_fn, _ = case.build(stax)
    x = case.inputs(N, 0)
    shapes = []
    key = jax.random.key(0)
    drawn = jax.eval_shape(lambda: shapes.append(init_fn(key, x.shape)) or shapes[0][1])
    params = jax.tree.map(filled(), drawn)
    pattern = case.patterns(N, 0)
    kwargs = {} if pattern is None else {"pattern": pattern}
    y = jax.jit(apply_fn, compiler_options=QUICK)(params, x, **kwargs)
    assert y.shape == shapes[0][0]
    np.testing.assert_allclose(y, REFERENCE[f"{name}/y"], rtol=1e-9, atol=1e-10)


def test_every_array_of_the_reference_is_compared():
    kinds = ("nngp itself", "ntk itself", "nngp", "ntk", "y")
    expected = {
        f"{name}/{kind}"
        for name, case in CASES.items()
        for kind in (kinds[:4] if case.random else kinds)
    }
    assert set(REFERENCE.files) == expected | {"signatures"}


def test_layers_have_the_arguments_and_defaults_of_neural_tangents():
    assert [signature(getattr(stax, name)) for name in LAYERS] == REFERENCE["signatures"].tolist()
