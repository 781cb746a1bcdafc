"""Kernels on disk: Zarr arrays with a chunk for each tile, and a manifest of what they hold."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .._shared.get import kernel_tuple
from .place import METADATA, has_metadata, location, resolved, shown, writing, zarr_module
from .plan import BlockPlan, Recipe
from .tiles import Array, Index, present

# The attribute that holds the manifest, and the array of checksums, a row of tiles to a chunk.
MANIFEST, TILES, FORMAT = "tangax", "tiles", 2
# Marks a tile as finished, beside its checksum.
_DONE = 2**32


def load_kernel(store: Any) -> Any:
    """Open a kernel that `batch` has written, without reading it.

    Args:
        store: the path, or a Zarr store object, that was given to `batch`.

    Returns:
        A read-only Zarr array; its `attrs["tangax"]` is the manifest: fingerprints of what the
        kernel was computed from, blocks, versions. Several outputs of `f` give a dict of arrays by
        the names that messages have of them, as `"f(params, x)['logits']"`, several kernels a
        namedtuple of them.

    Raises:
        ValueError: there is no kernel, or it is unfinished, or damaged: metadata that is not as it
            was written.
        ImportError: Zarr is missing.

    Cost: reads the manifest and 8 bytes for each tile. Tiles have checksums of their own, which
    Zarr verifies when it reads them, with a `ValueError` of its own. Run the call that wrote the
    kernel again, and it computes such tiles anew, as those that stand in the place of others, which
    it alone notices.

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
    store = resolved(store)
    group = opened(store)
    if group is None:
        raise ValueError(f"there is no kernel at {shown(store)}.")
    manifest = _manifest_of(group, store)
    done, of = progress_of(group, store)
    if done < of or not of:
        msg = (
            f"the kernel at {shown(store)} is unfinished: {done} of {of} tiles are there. "
            "Run the call that began it again, and it continues."
        )
        raise ValueError(msg)
    arrays = {name: part(group, store, name) for name in manifest["arrays"]}
    for name, array in arrays.items():
        if array is None or array.nchunks_initialized < array.nchunks:
            msg = (
                f"files of {name} are missing in {shown(store)}: an incomplete copy, perhaps. Copy "
                "it again, or run the call that began it, which computes them anew."
            )
            raise ValueError(msg)
    return _by_name(arrays, manifest)


def progress_of(group: Any, store: Any) -> tuple[int, int]:
    """How many tiles are there, of how many."""
    tiles = part(group, store, TILES)
    if tiles is None:
        return 0, 0
    sums = _read_sums(tiles)
    return int(np.count_nonzero(sums)), sums.size


def _read_sums(tiles: Any) -> np.ndarray:
    """The checksums of tiles; zero for those whose file is damaged."""

    def read(row: int) -> np.ndarray:
        try:
            return np.asarray(tiles[row])
        except Exception:  # whatever a codec makes of it
            return np.zeros(tiles.shape[1], np.uint64)

    rows = [read(row) for row in range(tiles.shape[0])]
    return np.stack(rows) if rows else np.zeros(tiles.shape, np.uint64)


def _by_name(arrays: dict[str, Any], manifest: dict[str, Any]) -> Any:
    """The arrays of a finished store in the form that `load_kernel` documents."""
    names, outputs = tuple(manifest["kernels"]), manifest["outputs"]
    kernels = [
        {output: arrays[f"{name}/{r}"] for r, output in enumerate(outputs)}
        if len(outputs) > 1
        else arrays[name]
        for name in names
    ]
    return kernels[0] if len(names) == 1 else kernel_tuple(names)(*kernels)


class OnDisk:
    """A kernel in a Zarr store: finished tiles, and their checksums."""

    def __init__(self, group: Any, store: Any, arrays: Sequence[Array]) -> None:
        self.arrays, self._store = arrays, store
        self.kernels = [group[a.name] for a in arrays]
        self._tiles = group[TILES]
        self._sums = _read_sums(self._tiles)

    def finished(self, index: Index) -> list[np.ndarray] | None:
        """The parts of a tile that is there and as it was written."""
        if not self._sums[self._row(index)]:
            return None
        try:
            parts = [
                np.asarray(kernel[array.region(index)])
                for array, kernel in present(index, self.arrays, self.kernels)
            ]
        except Exception:  # whatever a codec makes of a damaged file
            parts = []
        if _checksum(parts) == int(self._sums[self._row(index)]):
            return parts
        self._mark(index, 0)
        return None

    def write(self, index: Index, parts: Sequence[np.ndarray]) -> None:
        """Keep a tile, then its checksum: a tile without one is computed again."""
        pairs = zip(present(index, self.arrays, self.kernels), parts, strict=True)
        with writing(self._store):
            for (array, kernel), part in pairs:
                kernel[array.region(index)] = part
            self._mark(index, _checksum(parts))

    def _mark(self, index: Index, value: int) -> None:
        row = self._row(index)
        self._sums[row] = value
        self._tiles[row[0]] = self._sums[row[0]]

    def _row(self, index: Index) -> Index:
        return index[0], index[1] if self._sums.shape[1] > 1 else 0


def _checksum(parts: Sequence[np.ndarray]) -> int:
    """Of a tile's arrays; never zero."""
    total = 0
    for part in parts:
        if part.size:
            total = zlib.crc32(np.ascontiguousarray(part).data.cast("B"), total)
    return _DONE + total


# Opening


def opened(store: Any, mode: str = "r") -> Any:
    zarr = zarr_module()
    try:
        return zarr.open_group(location(store), mode=mode, use_consolidated=False)
    except zarr.errors.ContainsArrayError as error:
        raise ValueError(f"{shown(store)} holds no kernel, but something else.") from error
    except (FileNotFoundError, KeyError) as error:
        if has_metadata(store):
            raise _damaged(store, METADATA) from error
        return None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever Zarr makes of a damaged file
        raise _damaged(store, METADATA) from error


def _damaged(store: Any, file: str) -> ValueError:
    return ValueError(
        f"the store {shown(store)} is damaged: {file} is not as it was written. Restore that file "
        "from a copy; or remove the store, and the call computes the kernel anew."
    )


def recipe_of(
    group: Any, store: Any, fingerprint: dict[str, str], batch_size: int | None
) -> Recipe:
    """The recipe of the run that a store belongs to; `ValueError` if it is another kernel's."""
    manifest = _manifest_of(group, store)
    there = manifest["fingerprint"]
    differ = [k for k in {**there, **fingerprint} if there.get(k) != fingerprint.get(k)]
    if differ:
        told = [f"{k} ({there.get(k)} there, {fingerprint.get(k)} here)"
                if max(len(str(d.get(k))) for d in (there, fingerprint)) < 40 else k
                for k in differ]  # fmt: skip
        msg = (
            f"the store {shown(store)} holds another kernel: these differ: {', '.join(told)}. "
            f"{_FUNCTION if 'function' in differ else ''}Choose another path, or remove the store."
        )
        raise ValueError(msg)
    return _sized(_recipe_in(manifest), store, manifest, batch_size)


_FUNCTION = (
    "The function is all that f computes: its equations, rules of derivation, and what it closes "
    "over. "
)


def _sized(recipe: Recipe, store: Any, manifest: dict[str, Any], batch_size: int | None) -> Recipe:
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
    manifest = _manifest_of(group, store)
    if manifest["examples"] != examples:
        return None
    return _sized(_recipe_in(manifest), store, manifest, batch_size)


def _recipe_in(manifest: dict[str, Any]) -> Recipe:
    found = manifest["recipe"]
    return Recipe(**(found | {"forms": tuple(found["forms"])}))


def _manifest_of(group: Any, store: Any) -> dict[str, Any]:
    manifest = group.attrs.asdict().get(MANIFEST)
    is_ours = isinstance(manifest, dict) and manifest.get("format") == FORMAT
    if not is_ours or group.metadata.zarr_format != 3:
        raise ValueError(f"{shown(store)} is a Zarr group, but holds no kernel of this format.")
    if manifest != _sealed(manifest):
        raise _damaged(store, METADATA)
    return manifest


def _sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest as JSON has it, with a checksum."""
    text = json.dumps({k: v for k, v in manifest.items() if k != "checksum"}, sort_keys=True)
    return json.loads(text) | {"checksum": zlib.crc32(text.encode())}


def part(group: Any, store: Any, name: str) -> Any:
    """An array of a store, or `None`; `ValueError` if it is not what the manifest says."""
    manifest, file = _manifest_of(group, store), f"{name}/{METADATA}"
    try:
        if name not in group:
            return None
        array = group[name]
        stored = array.filters, array.serializer, array.compressors
        whole = (
            layout(array.shape, array.chunks, array.dtype) == manifest["arrays"].get(name)
            and dict(zip(_CODECS, stored, strict=True)) == _codecs()
            and array.attrs.asdict().get(MANIFEST) == manifest
        )
    except Exception as error:  # whatever Zarr makes of a damaged file
        if isinstance(error, MemoryError | OSError) and not isinstance(error, FileNotFoundError):
            raise
        raise _damaged(store, file) from error
    if not whole:
        raise _damaged(store, file)
    return array


def layout(shape: Sequence[int], chunks: Sequence[int], dtype: Any) -> dict[str, Any]:
    return {"shape": list(shape), "chunks": list(chunks), "dtype": str(dtype)}


_CODECS = ("filters", "serializer", "compressors")


def _codecs() -> dict[str, Any]:
    """How entries are stored: as they are, with a checksum."""
    zarr = zarr_module()
    stored = (), zarr.codecs.BytesCodec(endian="little"), (zarr.codecs.Crc32cCodec(),)
    return dict(zip(_CODECS, stored, strict=True))


def layouts(plan: BlockPlan, arrays: Sequence[Array]) -> dict[str, Any]:
    """Of the arrays of a kernel, and of the checksums of its tiles, a row to a chunk."""
    rows, columns = plan.blocks
    across = 1 if plan.joint else columns
    sums = layout((rows, across), (1, max(1, across)), "uint64")
    return {a.name: layout(a.shape, a.tile, a.dtype) for a in arrays} | {TILES: sums}


def created(store: Any, plan: BlockPlan, arrays: Sequence[Array], about: dict[str, Any]) -> Any:
    """The group of a run, with what it lacks."""
    zarr = zarr_module()
    group = opened(store, "r+")
    with writing(store):
        if group is None:
            known = {"recipe": asdict(plan.recipe), "arrays": layouts(plan, arrays)}
            manifest = _sealed({"format": FORMAT, **known, **about})
            attributes = {MANIFEST: manifest}
            group = zarr.create_group(location(store), attributes=attributes, zarr_format=3)
        manifest = _manifest_of(group, store)
        for name, form in manifest["arrays"].items():
            if part(group, store, name) is None:
                group.create_array(
                    name,
                    shape=tuple(form["shape"]),
                    chunks=tuple(form["chunks"]),
                    dtype=form["dtype"],
                    fill_value=0 if name == TILES else float("nan"),
                    config={"write_empty_chunks": True},
                    attributes={MANIFEST: manifest},
                    **_codecs(),
                )
    return group
