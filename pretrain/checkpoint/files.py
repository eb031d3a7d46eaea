"""The files of one checkpoint: tensors in safetensors files, and a manifest with the size and SHA-256 of each.

Only the files that a manifest names are read; other files in the folder are ignored. Neither format can carry code.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pretrain.runtime.errors import DiptychError, may_pass

FORMAT = 1
MANIFEST = "manifest.json"
VISIBLE_SECONDS = 60.0
"""How long a rank waits for files that rank 0 sees; a network file system may show them to other nodes later."""

_CHUNK = 16 * 2**20
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Writes a safetensors file and syncs it to disk.

    The safetensors library is not used: here the checksum is computed while writing, each tensor is freed once it is
    written, and other threads can run meanwhile.

    Args:
        path: The file; its folder exists.
        tensors: On the CPU; the dict is emptied.

    Returns:
        ``size`` in bytes and ``sha256`` (hex) of the file.

    Raises:
        DiptychError: It cannot be written.
    """
    digest = hashlib.sha256()
    # Wide elements first, so that each tensor begins at a multiple of its element size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in names:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    try:
        with path.open("wb") as file:
            for data in (len(text).to_bytes(8, "little"), text):
                file.write(data)
                digest.update(data)
            for name in names:
                content = tensors.pop(name).detach().contiguous().reshape(-1).view(torch.uint8).numpy()
                for start in range(0, len(content), _CHUNK):
                    file.write(content[start : start + _CHUNK].data)
                    digest.update(content[start : start + _CHUNK].data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if may_pass(error):
            raise
        raise DiptychError(f"{path}: cannot be written ({error.strerror or error})") from None
    return {"size": 8 + len(text) + end, "sha256": digest.hexdigest()}


def write_manifest(folder: Path, state: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the manifest, which makes a folder a checkpoint, and brings it and the folder to the disk."""
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, "state": state, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads ``format``, ``state`` and ``files``.

    Raises:
        DiptychError: There is none, or it is damaged or of another format.
    """
    try:
        manifest: Any = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DiptychError(f"{folder}: no whole checkpoint, its {MANIFEST} cannot be read ({error})") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise DiptychError(f"{folder}: checkpoint format {found!r}, this version reads {FORMAT}")
    files, state = manifest.get("files"), manifest.get("state")
    if not (isinstance(state, dict) and isinstance(files, dict) and all(map(_is_entry, files.items()))):
        raise DiptychError(f"{folder}: no whole checkpoint, its {MANIFEST} is damaged")
    return dict(manifest)


def _is_entry(item: tuple[str, Any]) -> bool:
    name, entry = item
    known = isinstance(entry, dict) and isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str)
    return known and Path(name).name == name  # no path: nothing outside of the folder is read


def present_files(folder: Path) -> dict[str, dict[str, Any]]:
    """The files that the manifest names, by name; each is there with its size.

    Raises:
        DiptychError: One is not, or there is no manifest.
    """
    files: dict[str, dict[str, Any]] = read_manifest(folder)["files"]
    for name, entry in files.items():
        size = _size(folder / name)
        if size is None:
            raise DiptychError(f"{name} is missing")
        if size != entry["size"]:
            raise DiptychError(f"{name} has {size} bytes, not {entry['size']}")
    return files


def wait_to_see(folder: Path, sizes: Mapping[str, int | None]) -> None:
    """Waits until this process sees the files that rank 0 sees.

    Args:
        folder: The folder of the files.
        sizes: Size of each file in bytes, by name; None for a folder.

    Raises:
        DiptychError: Some are not visible within ``VISIBLE_SECONDS``.
    """
    deadline, pause = time.monotonic() + VISIBLE_SECONDS, 0.05
    while sizes := {name: size for name, size in sizes.items() if not _is_there(folder / name, size)}:
        if time.monotonic() > deadline:
            raise DiptychError(
                f"{folder / min(sizes)}: rank 0 sees it, another rank does not after {VISIBLE_SECONDS:.0f} s; give all "
                "nodes the same file system at run.folder"
            )
        time.sleep(pause)
        pause = min(2 * pause, 1.0)
        for looked_at in (folder.parent, folder):  # listing a folder makes NFS ask the server again
            with suppress(OSError):
                os.listdir(looked_at)


def _is_there(path: Path, size: int | None) -> bool:
    return path.is_dir() if size is None else _size(path) == size


def checksum_problem(path: Path, entry: Mapping[str, Any]) -> str | None:
    """Why a file differs from the one that was written, or None if it does not."""
    try:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror or error})"
    return None if same else f"{path.name} does not match its checksum"


@contextmanager
def open_tensors(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Opens the safetensors files of a checkpoint whose names start with ``kind``.

    Yields:
        The open file of each tensor, by the tensor's name; read the tensor with ``get_tensor(name)``.

    Raises:
        DiptychError: One of them is no safetensors file.
    """
    with ExitStack() as stack:
        where: dict[str, Any] = {}
        for name in sorted(name for name in read_manifest(folder)["files"] if name.startswith(kind)):
            try:
                handle = stack.enter_context(safe_open(folder / name, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise DiptychError(f"{folder / name}: is no safetensors file ({error})") from None
            where |= {key: handle for key in handle.keys()}  # noqa: SIM118
        yield where


def sync_folder(folder: Path) -> None:
    """Syncs the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None
