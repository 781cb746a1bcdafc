"""Where a store is: its path, its lock, and what the system says of it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# The file of a group or an array that says what it is.
METADATA = "zarr.json"

# Store objects without a file to lock that a run of this process uses.
_IN_USE: set[Any] = set()
_LOCK = threading.Lock()


def resolved(store: Any) -> Any:
    """A store, its path whole: a later call may run in another folder."""
    if store == "":
        raise ValueError("store='' is no path; pass store=None for a kernel in memory.")
    local = _local_path(store)
    if local is not None:
        return local
    zarr = zarr_module()
    known = (str, Mapping, zarr.abc.store.Store, zarr.storage.StorePath)
    if not isinstance(store, known):
        raise TypeError(f"store must be a path or a Zarr store, got {type(store).__name__}.")
    return store


@contextlib.contextmanager
def locked(store: Any) -> Iterator[None]:
    """A store that no other run uses; `RuntimeError` if one does.

    Of a local path by a lock on a file beside it, which ends with the process; of other stores
    among the runs of this process.
    """
    root = _local_path(store)
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
        raise ImportError(_MISSING) from error
    try:
        _check_folder(root)
        file = root.with_name(root.name + ".lock")
        file.touch()
        lock = FileLock(file, timeout=0)
        lock.acquire()
    except Timeout:
        raise RuntimeError(IN_USE.format(root)) from None
    except OSError as error:
        if error.errno in _FULL:
            raise _unwritten(store, error) from error
        msg = (
            f"store={str(root)!r} cannot be written: {error}. To open a finished kernel without "
            "writing, call load_kernel."
        )
        raise ValueError(msg) from error
    except NotImplementedError as error:  # some network file systems have no locks
        msg = (
            f"store={str(root)!r} cannot be locked: {error}. Choose a path on another file system."
        )
        raise ValueError(msg) from error
    try:
        yield
    finally:
        lock.release()


# A full disk, or quota.
_FULL = errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)
IN_USE = "the store {} is in use by another run."
_MISSING = "store= needs zarr and filelock: pip install 'tangax[store]'."


@contextlib.contextmanager
def writing(store: Any) -> Iterator[None]:
    """An error of the system, such as a full disk, says what becomes of the kernel."""
    try:
        yield
    except OSError as error:
        raise _unwritten(store, error) from error


def _unwritten(store: Any, error: OSError) -> OSError:
    msg = (
        f"the store {shown(store)} could not be written ({error.strerror or error}). What is there "
        "is kept: mend that, make room perhaps, and the same call continues."
    )
    return OSError(error.errno, msg)


def _check_folder(root: Path) -> None:
    """Make the folder of a store; `ValueError` if something else is there."""
    root.parent.mkdir(parents=True, exist_ok=True)
    if root.is_dir():
        # A run that was killed at once leaves what Zarr writes aside.
        others = [p for p in root.iterdir() if p.suffix != ".partial"]
        if others and not (root / METADATA).exists():
            msg = f"store={str(root)!r} is a folder with other files in it, and no {METADATA}."
            raise ValueError(msg)
        writable = root
    elif root.exists():
        raise ValueError(f"store={str(root)!r} is a file.")
    else:
        writable = root.parent
    if not os.access(writable, os.W_OK):
        raise PermissionError(f"no permission to write to {writable}")


def _local_path(store: Any) -> Path | None:
    if isinstance(store, (str, os.PathLike)):
        text = str(store).removeprefix("file://")
        return None if "://" in text else Path(text).expanduser().resolve()
    root = getattr(store, "root", None)
    return root.resolve() if isinstance(root, Path) else None


def location(store: Any) -> Any:
    """What Zarr is to open: a folder, or the store that was given."""
    return _local_path(store) or store


def shown(store: Any) -> str:
    return str(_local_path(store) or store)


def zarr_module() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return zarr


def has_metadata(store: Any) -> bool:
    """Whether the folder of a store has a file that says what it is."""
    root = _local_path(store)
    return root is not None and (root / METADATA).exists()
