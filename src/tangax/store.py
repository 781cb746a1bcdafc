"""Kernels on disk: Zarr arrays with a chunk for each tile, and a manifest of what they hold."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ._blocks import BlockPlan, Recipe
from ._get import kernel_tuple
from ._tiles import Array, Index, present

# The attribute that holds the manifest, and the array of checksums, a row of tiles to a chunk.
MANIFEST, TILES, FORMAT = "tangax", "tiles", 1
# Marks a tile as finished, beside its checksum.
DONE = 2**32

# Store objects without a file to lock that a run of this process uses.
_IN_USE: set[Any] = set()
_LOCK = threading.Lock()


def load_kernel(store: Any) -> Any:
    """Open a kernel that `batch` has written, without reading it.

    Args:
        store: the path, or a Zarr store object, that was given to `batch`.

    Returns:
        A read-only Zarr array; its `attrs["tangax"]` is the manifest: fingerprints of what the
        kernel was computed from, blocks, versions. Several outputs of `f` give a dict of arrays by
        the name of the output, several kernels a namedtuple of them.

    Raises:
        ValueError: there is no kernel, or it is unfinished.
        ImportError: Zarr is missing.

    Cost: reads the manifest and 8 bytes for each tile. Tiles have checksums of their own, which
    Zarr verifies when it reads them.

    Example:
        >>> import jax, tangax as nt, tempfile
        >>> f = lambda w, x: jax.numpy.tanh(x @ w)
        >>> w, x = jax.random.normal(jax.random.key(0), (2, 5, 5))
        >>> path = tempfile.mkdtemp() + "/kernel.zarr"
        >>> ntk_fn = nt.batch(nt.empirical_ntk_fn(f, vmap_axes=0), 2, store=path)
        >>> _ = ntk_fn(x, None, w)
        >>> nt.load_kernel(path).shape
        (5, 5)
    """
    group = opened(store)
    if group is None:
        raise ValueError(f"there is no kernel at {shown(store)}.")
    manifest = manifest_of(group, store)
    done, of = progress_of(group)
    if done < of or not of:
        msg = (
            f"the kernel at {shown(store)} is unfinished: {done} of {of} tiles are there. "
            "Run the call that began it again, and it continues."
        )
        raise ValueError(msg)
    for name, array in group.members(max_depth=None):
        if hasattr(array, "nchunks_initialized") and array.nchunks_initialized < array.nchunks:
            msg = (
                f"files of {name} are missing in {shown(store)}: an incomplete copy, perhaps. Copy "
                "it again, or run the call that began it, which computes them anew."
            )
            raise ValueError(msg)
    return by_name(group, manifest)


def progress_of(group: Any) -> tuple[int, int]:
    """How many tiles are there, of how many."""
    if TILES not in group:
        return 0, 0
    sums = read_sums(group[TILES])
    return int(np.count_nonzero(sums)), sums.size


def read_sums(tiles: Any) -> np.ndarray:
    """The checksums of tiles; zero for those whose file is damaged."""

    def read(row: int) -> np.ndarray:
        try:
            return np.asarray(tiles[row])
        except Exception:  # whatever a codec makes of it
            return np.zeros(tiles.shape[1], np.uint64)

    rows = [read(row) for row in range(tiles.shape[0])]
    return np.stack(rows) if rows else np.zeros(tiles.shape, np.uint64)


def by_name(group: Any, manifest: dict[str, Any]) -> Any:
    """The arrays of a finished store in the form that `load_kernel` documents."""
    names, outputs = tuple(manifest["kernels"]), manifest["outputs"]
    kernels = [
        {output: group[f"{name}/{r}"] for r, output in enumerate(outputs)}
        if len(outputs) > 1
        else group[name]
        for name in names
    ]
    return kernels[0] if len(names) == 1 else kernel_tuple(names)(*kernels)


class OnDisk:
    """A kernel in a Zarr store: finished tiles, and their checksums."""

    def __init__(self, group: Any, arrays: Sequence[Array]) -> None:
        self._arrays = arrays
        self.kernels = [group[a.name] for a in arrays]
        self._tiles = group[TILES]
        self._sums = read_sums(self._tiles)

    def finished(self, index: Index) -> list[np.ndarray] | None:
        """The parts of a tile that is there and as it was written."""
        if not self._sums[self._row(index)]:
            return None
        try:
            parts = [
                np.asarray(kernel[array.region(index)])
                for array, kernel in present(index, self._arrays, self.kernels)
            ]
        except Exception:  # whatever a codec makes of a damaged file
            parts = []
        if checksum(parts) == int(self._sums[self._row(index)]):
            return parts
        self._mark(index, 0)
        return None

    def write(self, index: Index, parts: Sequence[np.ndarray]) -> None:
        """Keep a tile, then its checksum: a tile without one is computed again."""
        pairs = zip(present(index, self._arrays, self.kernels), parts, strict=True)
        for (array, kernel), part in pairs:
            kernel[array.region(index)] = part
        self._mark(index, checksum(parts))

    def _mark(self, index: Index, value: int) -> None:
        row = self._row(index)
        self._sums[row] = value
        self._tiles[row[0]] = self._sums[row[0]]

    def _row(self, index: Index) -> Index:
        return index[0], index[1] if self._sums.shape[1] > 1 else 0


def checksum(parts: Sequence[np.ndarray]) -> int:
    """Of a tile's arrays; never zero."""
    total = 0
    for part in parts:
        if part.size:
            total = zlib.crc32(np.ascontiguousarray(part).data.cast("B"), total)
    return DONE + total


# Opening


def opened(store: Any, mode: str = "r") -> Any:
    """The group at a path or store, or `None`."""
    zarr = zarr_module()
    try:
        return zarr.open_group(location(store), mode=mode)
    except (FileNotFoundError, KeyError):
        return None
    except (json.JSONDecodeError, zarr.errors.ContainsArrayError) as error:
        raise ValueError(f"{shown(store)} holds no kernel, but something else.") from error


def recipe_of(
    group: Any, store: Any, fingerprint: dict[str, str], batch_size: int | None
) -> Recipe:
    """The recipe of the run that a store belongs to; `ValueError` if it is another kernel's."""
    manifest = manifest_of(group, store)
    there = manifest["fingerprint"]
    differ = [k for k in {**there, **fingerprint} if there.get(k) != fingerprint.get(k)]
    if differ:
        told = [f"{k} ({there.get(k)} there, {fingerprint.get(k)} here)"
                if max(len(str(d.get(k))) for d in (there, fingerprint)) < 40 else k
                for k in differ]  # fmt: skip
        msg = (
            f"the store {shown(store)} holds another kernel: these differ: {', '.join(told)}. "
            "Choose another path, or remove the store."
        )
        raise ValueError(msg)
    return sized(recipe_in(manifest), store, manifest, batch_size)


def sized(recipe: Recipe, store: Any, manifest: dict[str, Any], batch_size: int | None) -> Recipe:
    """The recipe, if `batch_size` is that of the store or none."""
    longest = max(1, *manifest["examples"])
    if batch_size is not None and min(batch_size, longest) != min(recipe.block, longest):
        msg = (
            f"the store {shown(store)} has tiles of {recipe.block} examples, and batch_size is "
            f"{batch_size}. Leave batch_size out to continue it, or choose another path."
        )
        raise ValueError(msg)
    return recipe


def recipe_there(
    group: Any, store: Any, examples: list[int], batch_size: int | None
) -> Recipe | None:
    """The recipe of a store for so many examples."""
    manifest = manifest_of(group, store)
    if manifest["examples"] != examples:
        return None
    return sized(recipe_in(manifest), store, manifest, batch_size)


def recipe_in(manifest: dict[str, Any]) -> Recipe:
    """The recipe that a manifest holds."""
    found = manifest["recipe"]
    return Recipe(**(found | {"forms": tuple(found["forms"])}))


def manifest_of(group: Any, store: Any) -> dict[str, Any]:
    """The manifest of a store."""
    manifest = group.attrs.asdict().get(MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{shown(store)} is a Zarr group, but holds no kernel of this format.")
    return manifest


def created(store: Any, plan: BlockPlan, arrays: Sequence[Array], manifest: dict[str, Any]) -> Any:
    """The group of a run, with what it lacks."""
    zarr = zarr_module()
    manifest = {"format": FORMAT, "recipe": asdict(plan.recipe), **manifest}
    group = opened(store, "r+")
    if group is None:
        group = zarr.create_group(location(store), attributes={MANIFEST: manifest}, zarr_format=3)
    rows, columns = plan.blocks
    for array in arrays:
        if array.name not in group:
            group.create_array(
                array.name,
                shape=array.shape,
                chunks=array.tile,
                dtype=array.dtype,
                fill_value=float("nan"),
                compressors=[zarr.codecs.Crc32cCodec()],
                config={"write_empty_chunks": True},
                attributes={MANIFEST: manifest},
            )
    if TILES not in group:
        shape = (rows, 1 if plan.joint else columns)
        group.create_array(
            TILES,
            shape=shape,
            chunks=(1, max(1, shape[1])),
            dtype="uint64",
            fill_value=0,
            compressors=[zarr.codecs.Crc32cCodec()],
        )
    return group


@contextlib.contextmanager
def locked(store: Any) -> Iterator[None]:
    """A store that no other run uses; `RuntimeError` if one does.

    Of a local path by a lock on a file beside it, which ends with the process; of other stores
    among the runs of this process.
    """
    root = local_path(store)
    if root is None:
        key = store if isinstance(store, str) else id(store)
        with _LOCK:
            if key in _IN_USE:
                raise RuntimeError(IN_USE.format(shown(store)))
            _IN_USE.add(key)
        try:
            yield
        finally:
            _IN_USE.discard(key)
        return
    try:
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise ImportError(MISSING) from error
    try:
        check_folder(root)
        file = root.with_name(root.name + ".lock")
        file.touch()
        lock = FileLock(file, timeout=0)
        lock.acquire()
    except Timeout:
        raise RuntimeError(IN_USE.format(root)) from None
    except OSError as error:
        raise ValueError(f"store={str(root)!r} cannot be written: {error}.") from error
    try:
        yield
    finally:
        lock.release()


IN_USE = "the store {} is in use by another run."
MISSING = "store= needs zarr and filelock: pip install 'tangax[store]'."


def check_folder(root: Path) -> None:
    """Make the folder of a store; `ValueError` if something else is there."""
    root.parent.mkdir(parents=True, exist_ok=True)
    if root.is_dir():
        # A run that was killed at once leaves what Zarr writes aside.
        others = [p for p in root.iterdir() if p.suffix != ".partial"]
        if others and not (root / "zarr.json").exists():
            raise ValueError(f"store={str(root)!r} is a folder with other files in it.")
        writable = root
    elif root.exists():
        raise ValueError(f"store={str(root)!r} is a file.")
    else:
        writable = root.parent
    if not os.access(writable, os.W_OK):
        raise PermissionError(f"no permission to write to {writable}")


def local_path(store: Any) -> Path | None:
    """The folder of a store, if it is one of this machine."""
    if isinstance(store, (str, os.PathLike)):
        text = str(store).removeprefix("file://")
        return None if "://" in text else Path(text).expanduser().resolve()
    root = getattr(store, "root", None)
    return root.resolve() if isinstance(root, Path) else None


def location(store: Any) -> Any:
    """What Zarr is to open: a folder, or the store that was given."""
    return local_path(store) or store


def shown(store: Any) -> str:
    """A store in a message."""
    return str(local_path(store) or store)


def zarr_module() -> Any:
    """Zarr, or what to install."""
    try:
        import zarr
    except ImportError as error:
        raise ImportError(MISSING) from error
    return zarr
