"""Empirical kernels of ever wider networks, and the kernels of infinite width.

A network's layers are written once with `stax`, and give both: `apply_fn`, whose
empirical NTK Tangax computes from factors of the Jacobian, and `kernel_fn`, the
NTK in the limit of infinite width, in closed form. Three networks are compared,
on random images: an MLP, a CNN with global pooling, and a residual network.

You will see a table of distances from the limit, and a picture. Notice:

* The distance falls with one over the square root of the width (dotted), for
  all three: a hundred times the width for one digit more.
* At the same width the networks are not equally close: pooling averages over
  positions, and brings the CNN nearer.
* On the right, the entries of the CNN's kernels: a narrow network's scatter
  around the limit, a wide one's lie on the diagonal.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

import tangax as nt
from tangax import stax

# --- Networks: layers of a width, and the limit of all widths -----------------------------


def mlp(width: int) -> stax.Layer:
    layers = [stax.Dense(width, W_std=1.4, b_std=0.2), stax.Relu()] * 2
    return stax.serial(stax.Flatten(), *layers, stax.Dense(1))


def cnn(width: int) -> stax.Layer:
    layers = [stax.Conv(width, (3, 3), padding="SAME", W_std=1.4, b_std=0.2), stax.Relu()] * 2
    return stax.serial(*layers, stax.GlobalAvgPool(), stax.Dense(1))


def residual(width: int) -> stax.Layer:
    main = stax.serial(stax.Relu(), stax.Dense(width), stax.Erf(), stax.Dense(width))
    block = stax.serial(stax.FanOut(2), stax.parallel(main, stax.Identity()), stax.FanInSum())
    return stax.serial(stax.Flatten(), stax.Dense(width), block, block, stax.Relu(), stax.Dense(1))


NETWORKS: dict[str, Callable[[int], stax.Layer]] = {
    "MLP": mlp,
    "CNN, global pooling": cnn,
    "residual": residual,
}


# --- Kernels ---------------------------------------------------------------------


def empirical_ntks(net: stax.Layer, x: jax.Array, keys: jax.Array) -> np.ndarray:
    """The NTK of a network for each key: [samples, n, n]."""
    ntk_fn = nt.empirical_ntk_fn(net.apply_fn, vmap_axes=0)
    return np.stack([ntk_fn(x, None, net.init_fn(key, x.shape)[1]) for key in keys])


def distances(samples: np.ndarray, limit: np.ndarray) -> float:
    """The root of the mean square distance, relative to the limit."""
    return float(np.sqrt(np.mean((samples - limit) ** 2) / np.mean(limit**2)))


# --- Results ---------------------------------------------------------------------


def print_table(widths: list[int], found: dict[str, list[float]]) -> None:
    print(f"\nrelative distance from the limit\n{'width':22}" + "".join(f"{w:9}" for w in widths))
    for name, values in found.items():
        slope = np.polyfit(np.log(widths), np.log(values), 1)[0]
        row = "".join(f"{value:9.3f}" for value in values)
        print(f"{name:22}{row}   falls with width to the {slope:.2f}")


def draw(
    widths: list[int],
    found: dict[str, list[float]],
    entries: dict[int, np.ndarray],
    limit: np.ndarray,
) -> Figure:
    """Distances over widths, and the entries of one network's kernels over those of the limit."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in found.items():
        left.loglog(widths, values, "o-", label=name)
    first = max(values[0] for values in found.values())
    guide = first * np.sqrt(widths[0] / np.array(widths))
    left.loglog(widths, guide, ":", color="black", label="1 / sqrt(width)")
    left.set_xticks(widths, [str(w) for w in widths], minor=False)
    left.minorticks_off()
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2) if tick > guide[-1] / 3]
    left.set_yticks(ticks, [str(tick) for tick in ticks])
    left.set_xlabel("width")
    left.set_ylabel("relative distance")
    left.set_title("Empirical NTKs approach the limit")
    left.legend()
    for width, samples in entries.items():
        x = np.broadcast_to(limit, samples.shape).ravel()
        right.plot(x, samples.ravel(), ".", markersize=4, alpha=0.6, label=f"width {width}")
    ends = [limit.min(), limit.max()]
    right.plot(ends, ends, color="black", linewidth=0.8)
    right.set_xlabel("NTK of infinite width")
    right.set_ylabel("empirical NTK")
    right.set_title("Entries of the CNN's kernels")
    right.legend()
    return figure


# --- Command line ----------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kernels of finite and of infinite width.")
    default_out = Path(__file__).parent / "output" / "infinite-width.png"
    add = parser.add_argument
    add("--widths", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256, 512])
    add("--samples", type=int, default=24, help="networks of each width (default: %(default)s)")
    add("--images", type=int, default=8, help="random images (default: %(default)s)")
    add("--out", type=Path, default=default_out, help="the picture (default: %(default)s)")
    args = parser.parse_args(argv)
    args.widths = sorted(set(args.widths))
    if len(args.widths) < 2 or min(*args.widths, args.samples, args.images) < 1:
        parser.error("--widths needs two at least, and all numbers must be positive")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    x = jax.random.normal(jax.random.key(0), (args.images, 8, 8, 3))
    keys = jax.random.split(jax.random.key(1), args.samples)
    found, entries, limits = {}, {}, {}
    runs = tqdm([(name, width) for name in NETWORKS for width in args.widths], unit=" widths")
    for name, width in runs:
        net = NETWORKS[name](width)
        if name not in limits:  # of any width
            limits[name] = np.asarray(net.kernel_fn(x, None, "ntk"))
            found[name] = []
        samples = empirical_ntks(net, x, keys)
        found[name].append(distances(samples, limits[name]))
        if NETWORKS[name] is cnn and width in (args.widths[0], args.widths[-1]):
            entries[width] = samples
    print_table(args.widths, found)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw(args.widths, found, entries, limits["CNN, global pooling"]).savefig(args.out, dpi=140)
    print(f"\nThe picture: {args.out}")


if __name__ == "__main__":
    main()
