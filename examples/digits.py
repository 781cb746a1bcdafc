"""What training does to a network's kernels, on real handwritten digits.

A small convolutional network is trained on 500 images of 8x8 pixels. Before and
after, Tangax computes its two kernels between images n and m:

    NNGP   f(n) . f(m)   do the two get similar outputs?
    NTK    J(n) . J(m)   do the two pull the parameters in similar directions?

Each kernel then classifies 400 held-out images by ridge regression, without the
network that it came from. You will see a table of accuracies, and a picture of
the kernels between the held-out images (centred, as cosines, sorted by class)
and of their spectra. Notice:

* The NTK of the *untrained* network is already a good classifier. It knows what
  the network would learn if its parameters moved only a little, and from few
  images (try `--train 200`) it often does better than the trained network.
* The NNGP has no more nonzero eigenvalues than the network has outputs: ten.
  Before training these are random features, and poor ones; after it they are
  what the network has learned: ten blocks with little between them. (Centred,
  ten blocks are nine dimensions, so that the tenth eigenvalue falls away.)
* Training turns both kernels towards the labels: the alignment rises, here
  measured on images that the network never saw. This is the "feature learning"
  that an infinitely wide network, whose NTK stands still, would not do.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import KernelCenterer
from tqdm import tqdm

import tangax as nt

IMAGES, CLASSES = 1797, 10
VALIDATION = 100  # images that choose the ridge, so that the test images need not
RIDGES = np.logspace(-3, 1, 9)  # in units of the kernel's mean diagonal
CONV_STRIDES = (1, 2, 1)
WEIGHTS = ((3, 3, 1, 16), (3, 3, 16, 32), (3, 3, 32, 32), (4 * 4 * 32, CLASSES))


# --- Data --------------------------------------------------------------------


class Images(NamedTuple):
    """Images `x: [n, 8, 8, 1]` with their `labels: [n]`."""

    x: np.ndarray
    labels: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """One-hot labels with mean zero, [n, CLASSES]."""
        return np.eye(CLASSES)[self.labels] - 1 / CLASSES


def load_images(n_train: int, n_test: int, seed: int) -> tuple[Images, Images, Images]:
    """Training, validation and test images, with the classes in equal proportions."""

    def split(pool: Images, n_first: int, n_second: int) -> tuple[Images, Images]:
        parts = train_test_split(
            np.arange(len(pool.x)),
            train_size=n_first,
            test_size=n_second,
            stratify=pool.labels,
            random_state=seed,
        )
        first, second = (Images(pool.x[part], pool.labels[part]) for part in parts)
        return first, second

    pixels, labels = load_digits(return_X_y=True)
    x = ((pixels - pixels.mean()) / pixels.std()).reshape(-1, 8, 8, 1)
    train, rest = split(Images(x, labels), n_train, VALIDATION + n_test)
    valid, test = split(rest, VALIDATION, n_test)
    by_class = np.argsort(test.labels, kind="stable")
    return train, valid, Images(test.x[by_class], test.labels[by_class])


# --- Network: plain functions of (params, x), which is all that Tangax asks for ---------


@jax.jit
def init_params(key: jax.Array) -> list[dict[str, jax.Array]]:
    """Weights of variance one; `cnn` scales them (the NTK parameterisation)."""
    keys = jax.random.split(key, len(WEIGHTS))
    return [
        {"w": jax.random.normal(key, shape), "b": jnp.zeros(shape[-1])}
        for key, shape in zip(keys, WEIGHTS, strict=True)
    ]


def cnn(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Three convolutions and a dense layer: [n, 8, 8, 1] -> [n, CLASSES]."""
    *convs, dense = params
    for layer, stride in zip(convs, CONV_STRIDES, strict=True):
        w = layer["w"] * np.sqrt(2 / np.prod(layer["w"].shape[:-1]))
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=dims)
        x = jax.nn.relu(x + 0.1 * layer["b"])
    x = x.reshape(len(x), -1)
    return x @ dense["w"] / np.sqrt(x.shape[-1]) + 0.1 * dense["b"]


def train_network(params, train: Images, steps: int, seed: int):
    """Adam on the squared error: the loss that kernel regression minimises too."""
    optimizer = optax.adam(0.02)

    def loss(params, x, targets):
        return jnp.mean(jnp.sum((cnn(params, x) - targets) ** 2, axis=-1))

    @jax.jit
    def step(params, state, x, targets):
        value, gradient = jax.value_and_grad(loss)(params, x, targets)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    rng, targets, state = np.random.default_rng(seed), train.targets, optimizer.init(params)
    bar = tqdm(range(steps), desc="training", unit=" steps")
    for _ in bar:
        batch = rng.integers(len(targets), size=64)
        params, state, value = step(params, state, train.x[batch], targets[batch])
        bar.set_postfix(loss=f"{value:.4f}", refresh=False)
    return params


# --- Kernels -----------------------------------------------------------------


class Kernel(NamedTuple):
    """What is known of one kernel: a line of the table and a panel of the picture."""

    name: str
    accuracy: float
    alignment: float
    ridge: float
    seconds: float
    matrix: np.ndarray  # between the test images, centred: [n, n]


def accuracy(outputs, images: Images) -> float:
    return float(np.mean(np.argmax(outputs, axis=-1) == images.labels))


def regress(kernel: np.ndarray, train: Images, valid: Images) -> tuple[np.ndarray, float]:
    """Fit the training images and choose the ridge on the validation images.

    The rows of `kernel` are training, validation and test images, its columns training images.
    Returns the outputs for the test images, and the ridge.
    """
    k_train, k_valid, k_test = np.split(kernel, np.cumsum([len(train.x), len(valid.x)]))
    scale = np.trace(k_train) / len(k_train)
    fits = [KernelRidge(alpha=ridge * scale, kernel="precomputed") for ridge in RIDGES]
    errors = [
        np.mean((fit.fit(k_train, train.targets).predict(k_valid) - valid.targets) ** 2)
        for fit in fits
    ]
    best = np.argmin(errors)
    return fits[best].predict(k_test), float(RIDGES[best])


def align(kernel: np.ndarray, images: Images) -> float:
    """The cosine between a centred kernel and the kernel of the labels, as two long vectors."""
    target = KernelCenterer().fit_transform(images.targets @ images.targets.T)
    return float(np.sum(kernel * target) / np.linalg.norm(kernel) / np.linalg.norm(target))


def study(name: str, matrix: np.ndarray, images: tuple[Images, ...], seconds: float) -> Kernel:
    """Measure a kernel between all images: training, validation, test."""
    train, valid, test = images
    outputs, ridge = regress(matrix[:, : len(train.x)], train, valid)
    between_test = KernelCenterer().fit_transform(matrix[-len(test.x) :, -len(test.x) :])
    alignment = align(between_test, test)
    return Kernel(name, accuracy(outputs, test), alignment, ridge, seconds, between_test)


# --- Results -----------------------------------------------------------------


def print_table(network_accuracy: float, network_seconds: float, kernels: list[Kernel]) -> None:
    print(f"\n{'':18}{'accuracy':>10}{'alignment':>11}{'ridge':>9}{'seconds':>9}")
    print(f"{'network after':18}{network_accuracy:10.1%}{'-':>11}{'-':>9}{network_seconds:9.1f}")
    for k in kernels:
        print(f"{k.name:18}{k.accuracy:10.1%}{k.alignment:11.2f}{k.ridge:9.2g}{k.seconds:9.1f}")
    print("""
Accuracy and alignment (1 would be the labels' own kernel) are on held-out
images. The ridge is in units of the kernel's mean diagonal. The seconds are for
training, or for the kernel between all images; the first of a kind compiles.""")


def draw_matrices(axes, kernels: list[Kernel], labels: np.ndarray) -> None:
    """Heat maps of the cosines between the images' centred features, on one scale."""
    norms = [np.sqrt(np.diag(kernel.matrix)) for kernel in kernels]
    cosines = [k.matrix / np.outer(norm, norm) for k, norm in zip(kernels, norms, strict=True)]
    scale = Normalize(*np.quantile(cosines, [0.01, 0.99]))
    edges = np.searchsorted(labels, np.arange(CLASSES + 1)) - 0.5
    for ax, kernel, cosine in zip(axes, kernels, cosines, strict=True):
        ax.imshow(cosine, cmap="magma", norm=scale)
        ax.hlines(edges[1:-1], edges[0], edges[-1], color="white", linewidth=0.4)
        ax.vlines(edges[1:-1], edges[0], edges[-1], color="white", linewidth=0.4)
        ax.set_xticks((edges[1:] + edges[:-1]) / 2, range(CLASSES))
        ax.set_yticks((edges[1:] + edges[:-1]) / 2, range(CLASSES))
        ax.tick_params(length=0)
        measures = f"accuracy {kernel.accuracy:.1%}, alignment {kernel.alignment:.2f}"
        ax.set_title(f"{kernel.name} training\n{measures}", fontsize=11)
    bar = axes[0].figure.colorbar(axes[0].images[0], ax=axes, extend="both", aspect=30, pad=0.02)
    bar.set_label("cosine of two images")


def draw_spectra(ax, kernels: list[Kernel]) -> None:
    for kernel, color in zip(kernels, ("tab:gray", "tab:red"), strict=True):
        values = np.linalg.eigvalsh(kernel.matrix)[::-1]
        values = values[values > 1e-5 * values[0]]  # the others are zero but for rounding
        rank, share = 1 + np.arange(len(values)), values / values.sum()
        ax.loglog(rank, share, ".-", color=color, markersize=5, label=kernel.name)
    ax.axvline(CLASSES, color="black", linewidth=0.8, linestyle=":")
    ax.set_xlim(0.8, 1.3 * len(kernels[0].matrix))
    ax.set_box_aspect(1)
    ax.yaxis.set_label_position("right")
    ax.yaxis.tick_right()
    ax.set_title(f"Spectrum of the {kernels[0].name.split()[0]}", fontsize=11)
    ax.set_xlabel("number of the eigenvalue (dotted: 10)")
    ax.set_ylabel("share of the trace")
    ax.legend()


def draw(title: str, kernels: list[Kernel], labels: np.ndarray) -> Figure:
    """A line of panels for each kernel: before training, after, and both spectra."""
    figure = Figure(figsize=(12, 7.8), layout="compressed")
    axes = figure.subplots(2, 3)
    for ax, pair in zip(axes, (kernels[:2], kernels[2:]), strict=True):
        draw_matrices(ax[:2], pair, labels)
        draw_spectra(ax[2], pair)
    figure.suptitle(title, fontsize=13)
    return figure


# --- Command line ------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What training does to the kernels of a network.")
    default_out = Path(__file__).parent / "output" / "digits.png"
    add = parser.add_argument
    add("--train", type=int, default=500, help="training images (default: %(default)s)")
    add("--test", type=int, default=400, help="held-out images (default: %(default)s)")
    add("--steps", type=int, default=600, help="training steps (default: %(default)s)")
    add("--seed", type=int, default=0, help="of split, weights and batches (default: %(default)s)")
    add("--out", type=Path, default=default_out, help="the picture (default: %(default)s)")
    args = parser.parse_args(argv)
    if min(args.train, args.test) < CLASSES:
        parser.error(f"--train and --test must be at least {CLASSES}: one image of each class")
    if args.train + VALIDATION + args.test > IMAGES:
        parser.error(
            f"there are {IMAGES} images, too few for --train {args.train}, --test {args.test} "
            f"and {VALIDATION} that choose the ridge"
        )
    if args.steps < 0:
        parser.error("--steps must not be negative")
    if not 0 <= args.seed < 2**32:
        parser.error("--seed must be from 0 to 2**32 - 1")
    if args.out.suffix not in {".png", ".pdf", ".svg"}:
        parser.error(f"--out must end in .png, .pdf or .svg, not as {str(args.out)!r}")
    return args


def timed(f, *args):
    start = time.perf_counter()
    result = jax.block_until_ready(f(*args))
    return result, time.perf_counter() - start


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    images = train, _, test = load_images(args.train, args.test, args.seed)
    before = init_params(jax.random.key(args.seed))
    after, training_seconds = timed(train_network, before, train, args.steps, args.seed)
    network_accuracy = accuracy(cnn(after, jnp.asarray(test.x)), test)

    kernel_fn = jax.jit(nt.empirical_kernel_fn(cnn, vmap_axes=0), static_argnames="get")
    x = np.concatenate([part.x for part in images])
    runs = [(get, when) for get in ("nngp", "ntk") for when in ("before", "after")]
    kernels = []
    for get, when in tqdm(runs, desc="kernels", unit=" kernels"):
        params = {"before": before, "after": after}[when]
        with jax.default_matmul_precision("highest"):  # full float32 on a GPU, too
            matrix, seconds = timed(kernel_fn, x, None, get, params)
        matrix = np.asarray(matrix, np.float64)  # for the solves and the eigenvalues
        kernels.append(study(f"{get.upper()} {when}", matrix, images, seconds))

    print_table(network_accuracy, training_seconds, kernels)
    title = (
        f"Kernels between {args.test} held-out digits, sorted by class. "
        f"The network, trained on {args.train} others, reaches {network_accuracy:.1%}."
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw(title, kernels, test.labels).savefig(args.out, dpi=160)
    print(f"\nThe picture: {args.out}")


if __name__ == "__main__":
    main()
