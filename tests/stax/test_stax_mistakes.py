"""What `stax` refuses, and the words in which it does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks_of_stax import IMAGES, LINES, VECTORS

import tangax as nt
from tangax import stax

KEY = jax.random.key(0)


def test_a_layer_without_a_closed_form_says_so_by_name():
    foreign = (lambda rng, shape: (shape, ()), lambda params, x, **kwargs: x)
    image, vector = np.ones((2, *IMAGES)), np.ones((2, *VECTORS))
    nets = {
        r"Elementwise\(tanh\)": (stax.serial(stax.Dense(2), stax.Elementwise(jnp.tanh)), vector),
        r"Relu": (stax.serial(stax.Dense(2), stax.Relu(), stax.Relu()), vector),
        r"Erf\(1.0": (stax.serial(stax.Conv(2, (2, 2)), stax.Flatten(), stax.Erf()), image),
        r"Cos\(1.0": (stax.serial(stax.Dense(2), stax.Relu(), stax.Cos()), vector),
        r"layer 1 of serial": (stax.serial(stax.Dense(2), foreign), vector),
        r"LayerNorm\(-1\)": (stax.serial(stax.Dense(2), stax.Relu(), stax.LayerNorm()), vector),
        r"LayerNorm\(1\).*channels": (stax.serial(stax.Dense(2), stax.LayerNorm(1)), image),
        r"LayerNorm\(\(0, 3\)\).*batch": (
            stax.serial(stax.Dense(2), stax.LayerNorm((0, 3))),
            image,
        ),
        r"FanInSum.*Dense or Conv": (
            stax.serial(
                stax.FanOut(2), stax.parallel(stax.Identity(), stax.Identity()), stax.FanInSum()
            ),
            vector,
        ),
    }
    for message, (net, x) in nets.items():
        shape, params = net.init_fn(KEY, x.shape)
        assert net.apply_fn(params, x).shape == shape
        with pytest.raises(NotImplementedError, match=message):
            net.kernel_fn(x)


MISTAKES = {
    "window too large": (
        lambda: stax.Conv(2, (9, 9)).init_fn(KEY, (2, *IMAGES)),
        ValueError,
        r"Conv\(2, \(9, 9\)\): no window.*SAME",
    ),
    "window too large, kernel": (
        lambda: stax.Conv(2, (9, 9)).kernel_fn(np.ones((2, *IMAGES))),
        ValueError,
        r"Conv\(2, \(9, 9\)\): no window",
    ),
    "axes of a convolution": (
        lambda: stax.Conv(2, (3, 3)).init_fn(KEY, (2, *LINES)),
        ValueError,
        r"Conv\(2, \(3, 3\)\) takes arrays with axes 'NHWC'",
    ),
    "axes of a convolution, kernel": (
        lambda: stax.Conv(2, (3, 3)).kernel_fn(np.ones((2, *LINES))),
        ValueError,
        r"Conv\(2, \(3, 3\)\)",
    ),
    "channels of a convolution": (
        lambda: stax.Conv(2, (3, 3)).apply_fn((np.ones((3, 3, 4, 2)), None), np.ones((2, *IMAGES))),
        ValueError,
        r"Conv\(2, \(3, 3\)\) has parameters for 4 channels",
    ),
    "channels of dense": (
        lambda: stax.Dense(2).apply_fn((np.ones((3, 2)), None), np.ones((2, 4))),
        ValueError,
        r"Dense\(2\) has parameters for 3 channels.*\(2, 4\) has 4",
    ),
    "dense of a vector": (
        lambda: stax.Dense(2).init_fn(KEY, (4,)),
        ValueError,
        r"Dense\(2\) takes arrays with a batch and a channel axis",
    ),
    "pool too large": (
        lambda: stax.AvgPool((9, 1)).init_fn(KEY, (2, *IMAGES)),
        ValueError,
        r"AvgPool\(\(9, 1\)\): no window",
    ),
    "pool of other axes": (
        lambda: stax.SumPool((2,)).kernel_fn(np.ones((2, *IMAGES))),
        ValueError,
        r"SumPool\(\(2,\)\) has windows of 1 axes",
    ),
    "no pattern": (
        lambda: stax.Aggregate().apply_fn((), np.ones((2, *LINES))),
        ValueError,
        r"Aggregate needs its graph: pass pattern=",
    ),
    "no pattern, kernel": (
        lambda: stax.Aggregate().kernel_fn(np.ones((2, *LINES))),
        ValueError,
        r"Aggregate needs its graph: pass pattern=",
    ),
    "pattern of another shape": (
        lambda: stax.Aggregate().apply_fn((), np.ones((2, *LINES)), pattern=np.ones((2, 5, 5))),
        ValueError,
        r"Aggregate: pattern has shape \(2, 5, 5\), expected \(2, 6, 6\)",
    ),
    "sparse pattern of another shape": (
        lambda: stax.Aggregate(implementation="SPARSE").apply_fn(
            (), np.ones((2, *LINES)), pattern=np.ones((2, 6, 6), int)
        ),
        ValueError,
        r"Aggregate: a sparse pattern",
    ),
    "sparse pattern of floats": (
        lambda: stax.Aggregate(implementation="SPARSE").apply_fn(
            (), np.ones((2, *LINES)), pattern=np.ones((2, 6, 2))
        ),
        TypeError,
        r"Aggregate: a sparse pattern holds integers",
    ),
    "aggregate over channels": (
        lambda: stax.Aggregate(aggregate_axis=-1).init_fn(None, (2, *LINES)),
        ValueError,
        r"Aggregate: aggregate_axis -1",
    ),
    "implementation of aggregate": (
        lambda: stax.Aggregate(implementation="FAST"),
        ValueError,
        r"Aggregate: implementation must be one of",
    ),
    "dropout without a key": (
        lambda: stax.serial(stax.Dense(2), stax.Dropout(0.5)).apply_fn(
            [(np.ones((3, 2)), None), ()], np.ones((2, 3))
        ),
        ValueError,
        r"Dropout\(0.5\) in training needs a key",
    ),
    "rate": (lambda: stax.Dropout(0.0), ValueError, r"Dropout\(0.0\): rate"),
    "mode": (lambda: stax.Dropout(0.5, "eval"), ValueError, r"Dropout\(0.5\): mode"),
    "sums of other shapes": (
        lambda: stax.FanInSum().apply_fn((), [np.ones((2, 3)), np.ones((2, 4))]),
        ValueError,
        r"FanInSum: its branches do not match: \[\(2, 3\), \(2, 4\)\]",
    ),
    "sums of other shapes, init": (
        lambda: stax.FanInSum().init_fn(None, [(2, 3), (2, 4)]),
        ValueError,
        r"FanInSum: its branches do not match",
    ),
    "sums of other shapes, kernel": (
        lambda: stax.serial(
            stax.FanOut(2),
            stax.parallel(stax.Conv(2, (2, 2)), stax.Conv(2, (1, 1))),
            stax.FanInSum(),
        ).kernel_fn(np.ones((2, *IMAGES))),
        ValueError,
        r"FanInSum: its branches do not match",
    ),
    "joins of other shapes": (
        lambda: stax.FanInConcat(-1).init_fn(None, [(2, 5, 3), (2, 4, 3)]),
        ValueError,
        r"FanInConcat\(-1\): its branches do not match",
    ),
    "joined batches": (
        lambda: stax.serial(
            stax.FanOut(2), stax.parallel(stax.Dense(2), stax.Dense(2)), stax.FanInConcat(0)
        ).kernel_fn(np.ones((2, 3))),
        ValueError,
        r"FanInConcat\(0\): along the batch axis",
    ),
    "sum of one": (
        lambda: stax.serial(stax.Dense(2), stax.FanInSum()).kernel_fn(np.ones((2, 3))),
        ValueError,
        r"FanInSum joins branches",
    ),
    "sum of one array": (
        lambda: stax.FanInSum().apply_fn((), np.ones((5, 3))),
        ValueError,
        r"FanInSum joins branches",
    ),
    "sum of one shape": (
        lambda: stax.serial(stax.Dense(2), stax.FanInSum()).init_fn(KEY, (5, 3)),
        ValueError,
        r"FanInSum joins branches",
    ),
    "join of one array": (
        lambda: stax.FanInConcat().apply_fn((), np.ones((5, 4, 3))),
        ValueError,
        r"FanInConcat\(-1\) joins branches",
    ),
    "join along an axis that is not there": (
        lambda: stax.FanInConcat(5).init_fn(None, [(5, 3), (5, 4)]),
        ValueError,
        r"FanInConcat\(5\): axes has axis 5, which is out of range",
    ),
    "branches with other axes": (
        lambda: stax.serial(
            stax.FanOut(2), stax.parallel(stax.Flatten(), stax.Flatten(0, 1)), stax.FanInConcat()
        ).kernel_fn(np.ones((2, *LINES))),
        ValueError,
        r"FanInConcat\(-1\): its branches have batch and channels at different axes",
    ),
    "copies of copies": (
        lambda: stax.serial(stax.FanOut(2), stax.FanOut(2)).kernel_fn(np.ones((2, 3))),
        ValueError,
        r"FanOut\(2\) takes one input, got 2",
    ),
    "window that is a number": (lambda: stax.AvgPool(2), TypeError, r"AvgPool\(2\): windows and"),
    "filter that is a number": (lambda: stax.Conv(2, 3), TypeError, r"Conv\(2, 3\): windows and"),
    "normalised axis twice": (
        lambda: stax.LayerNorm((-1, 2)).apply_fn((), np.ones((2, *LINES))),
        ValueError,
        r"LayerNorm\(\(-1, 2\)\): axes=\(-1, 2\) repeats axis 2",
    ),
    "one axis for batch and channels": (
        lambda: stax.GlobalAvgPool(channel_axis=0).apply_fn((), np.ones((2, *LINES))),
        ValueError,
        r"GlobalAvgPool: axes=\(0, 0\) repeats axis 0",
    ),
    "batch of another layer": (
        lambda: stax.serial(stax.Dense(4, batch_axis=1, channel_axis=0), stax.Flatten(0)).kernel_fn(
            np.ones((2, 3))
        ),
        ValueError,
        r"Flatten takes the batch at axis 0",
    ),
    "vertices that are not there": (
        lambda: stax.Aggregate(implementation="SPARSE").apply_fn(
            (), np.ones((2, *LINES)), pattern=np.full((2, 1, 2), 6)
        ),
        ValueError,
        r"Aggregate: pattern has vertices beyond the \(6,\)",
    ),
    "no channels": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 0))),
        ValueError,
        r"x1 has no channels or positions",
    ),
    "half a unit": (lambda: stax.Dense(3.5), ValueError, r"Dense\(3.5\): the number of output"),
    "no units": (
        lambda: stax.Conv(0, (3,)),
        ValueError,
        r"Conv\(0, \(3,\)\): the number of output",
    ),
    "a list of layers": (
        lambda: stax.serial([stax.Dense(2), stax.Relu()]),
        TypeError,
        r"layer 0 of serial is a list: write serial\(\*layers\)",
    ),
    "a shape for branches": (
        lambda: stax.parallel(stax.Dense(2), stax.Dense(2)).init_fn(KEY, (4, 5)),
        ValueError,
        r"parallel takes a shape for each branch, got one, \(4, 5\)",
    ),
    "a layer for a function": (
        lambda: nt.empirical_ntk_fn(stax.Dense(2)),
        TypeError,
        r"got a layer: pass its apply_fn",
    ),
    "a tree for a function": (
        lambda: nt.empirical_nngp_fn({}),
        TypeError,
        r"f must be a function f\(params, x\), got dict",
    ),
    "dense of branches": (
        lambda: stax.serial(stax.FanOut(2), stax.Dense(2)).kernel_fn(np.ones((2, 3))),
        ValueError,
        r"Dense\(2\) takes one input, got 2",
    ),
    "branches and copies": (
        lambda: stax.serial(stax.FanOut(3), stax.parallel(stax.Dense(2))).init_fn(KEY, (2, 3)),
        ValueError,
        r"parallel has 1 layers, but input shapes: 3",
    ),
    "branches and copies, kernel": (
        lambda: stax.serial(
            stax.FanOut(3), stax.parallel(stax.Dense(2), stax.Dense(2)), stax.FanInSum()
        ).kernel_fn(np.ones((2, 3))),
        ValueError,
        r"parallel has 2 layers, but inputs: 3",
    ),
    "parameters of another network": (
        lambda: stax.serial(stax.Dense(2), stax.Relu()).apply_fn([()], np.ones((2, 3))),
        ValueError,
        r"serial has 2 layers, but parameters: 1",
    ),
    "parameterization": (
        lambda: stax.Dense(2, parameterization="mup"),
        ValueError,
        r"Dense\(2\): parameterization must be one of .*'mup'",
    ),
    "parameterization of a convolution": (
        lambda: stax.Conv(2, (3, 3), parameterization="mup"),
        ValueError,
        r"Conv\(2, \(3, 3\)\): parameterization must be one of",
    ),
    "padding": (
        lambda: stax.Conv(2, (3, 3), padding="REFLECT"),
        ValueError,
        r"Conv\(2, \(3, 3\)\): padding must be one of .*'REFLECT'",
    ),
    "padding of a pool": (
        lambda: stax.AvgPool((3, 3), padding="REFLECT"),
        ValueError,
        r"AvgPool\(\(3, 3\)\): padding must be one of",
    ),
    "strides": (lambda: stax.Conv(2, (3, 3), (2,)), ValueError, r"Conv.*differ in length"),
    "dimension numbers": (
        lambda: stax.Conv(2, (3, 3), dimension_numbers=("NHWC", "HWIO", "NHW")),
        ValueError,
        r"Conv.*dimension_numbers",
    ),
    "axes of layers differ": (
        lambda: stax.serial(stax.Conv(2, (3, 3)), stax.AvgPool((2, 2), channel_axis=1)).kernel_fn(
            np.ones((2, *IMAGES))
        ),
        ValueError,
        r"AvgPool\(\(2, 2\)\) takes the channels at axis 1, but its input has them at axis 3",
    ),
    "no call": (
        lambda: stax.serial(stax.Dense(2), stax.Relu),
        TypeError,
        r"layer 1 of serial is .*Relu\(\), not Relu",
    ),
    "no layers": (lambda: stax.serial(), ValueError, r"serial needs a layer"),
    "no copies": (lambda: stax.FanOut(0), ValueError, r"FanOut: num must be positive"),
    "degree": (
        lambda: stax.ElementwiseNumerical(jnp.tanh, 0),
        ValueError,
        r"ElementwiseNumerical\(tanh, deg=0\): deg must be positive",
    ),
    "unknown kernel": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 3)), None, "cov1"),
        ValueError,
        r"get must be",
    ),
    "unknown argument": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 3)), mask_constant=0.0),
        TypeError,
        r"kernel_fn has no argument 'mask_constant'",
    ),
    "other positions": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 3)), np.ones((2, 4))),
        ValueError,
        r"x1 and x2 differ in more than the number of examples",
    ),
    "one axis": (
        lambda: stax.Dense(2).kernel_fn(np.ones(3)),
        ValueError,
        r"x1 needs a batch and a channel axis",
    ),
    "a list for one input": (
        lambda: stax.Dense(2).kernel_fn([[1.0, 2.0]]),
        TypeError,
        r"x1 must be an array",
    ),
    "a list for the other": (
        lambda: stax.Dense(2).kernel_fn(np.ones((1, 2)), [[1.0, 2.0]]),
        TypeError,
        r"x2 must be an array.* got float as x2\[0\]\[0\].*jnp.asarray\(x2\)",
    ),
    "a kernel for the other": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 3)), "ntk"),
        TypeError,
        r"x2 must be an array, got 'ntk'. Name kernels by get='ntk'",
    ),
    "parameters": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 3)), None, [np.ones((3, 2))]),
        TypeError,
        r"get must be .*got list.*takes no parameters",
    ),
    "a key": (
        lambda: stax.Dense(2).kernel_fn(KEY, np.ones((2, 3))),
        TypeError,
        r"x1 must hold numbers, got key",
    ),
    "complex": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 3), complex)),
        TypeError,
        r"x1 is complex",
    ),
    "one input of two": (
        lambda: stax.serial(stax.parallel(stax.Dense(2), stax.Dense(2)), stax.FanInSum()).kernel_fn(
            np.ones((2, 3))
        ),
        ValueError,
        r"x1: the network has 2 inputs",
    ),
    "examples of two inputs": (
        lambda: stax.serial(stax.parallel(stax.Dense(2), stax.Dense(2)), stax.FanInSum()).kernel_fn(
            (np.ones((2, 3)), np.ones((3, 3)))
        ),
        ValueError,
        r"x1: its inputs have different numbers of examples",
    ),
    "x2 partly None": (
        lambda: stax.parallel(stax.Dense(2), stax.Dense(2)).kernel_fn(
            (np.ones((2, 3)), np.ones((2, 3))), (np.ones((2, 3)), None)
        ),
        ValueError,
        r"x2\[1\] is None and x2\[0\] is not",
    ),
    "batch": (
        lambda: nt.batch(stax.Dense(2).kernel_fn, 2),
        TypeError,
        r"kernel_fn of a stax network goes block by block itself",
    ),
    "batch_axis_out": (lambda: stax.Flatten(0, 2), ValueError, r"Flatten: batch_axis_out"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        call()
