"""Opening local files and those of any object store that fsspec knows, decompressed as they are read."""

import contextlib
import io
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import zstandard

from pretrain.runtime.errors import DiptychError

DAMAGE = (EOFError, zlib.error, zstandard.ZstdError)
"""What reading raises where compressed data is broken or ends too early."""


def open_bytes(path: str, start: int = 0) -> BinaryIO:
    """Opens a local file or fsspec URL; ``.gz`` and ``.zst`` are decompressed as they are read.

    Args:
        path: Local path or URL.
        start: Byte to begin at, of a file that is not compressed.

    Returns:
        A file to ``read(size)`` from. Where compressed data is broken or ends too early, it gives all that comes before
        and then raises one of ``DAMAGE``.

    Raises:
        DiptychError: The file cannot be opened.
    """
    local = local_path(path)
    with reading(path):
        if local is None:
            system, name = file_system(path)
            file = cast(BinaryIO, system.open(name, "rb"))
            with contextlib.suppress(AttributeError):
                file.file_system = system  # type: ignore[attr-defined]  # an archive is closed when nothing refers to it
        else:
            file = open(local, "rb")  # noqa: SIM115 (the caller closes it)
        if start:
            file.seek(start)
    new_frame = _new_frame(path)
    return file if new_frame is None else cast(BinaryIO, _Decompressed(file, new_frame))


def is_compressed(path: str) -> bool:
    """Whether ``open_bytes`` decompresses the file."""
    return _new_frame(path) is not None


def local_path(path: str) -> str | None:
    """The path of a local file, None for a URL."""
    if "://" in path and not path.startswith("file://"):
        return None
    return os.path.expanduser(path.removeprefix("file://"))


def file_system(path: str) -> tuple[Any, str]:
    """The store of a URL and the path in it."""
    import fsspec  # here: most runs start without it

    system, name = fsspec.core.url_to_fs(path)
    return system, name


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns any failure into a ``DiptychError`` that names the file; stores raise all kinds."""
    try:
        yield
    except (DiptychError, *DAMAGE):
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or " ".join(str(error).split())[:300] or type(error).__name__
        raise DiptychError(f"{path}: cannot be read ({reason}); check the path") from error


def _new_frame(path: str) -> Callable[[], Any] | None:
    """What makes decompressors for a file of this name; None where it is not compressed."""
    name = path.lower()
    if local_path(path) is None:
        first, _, rest = name.partition("::")  # either may be the file: zip://a.gz::b.zip, simplecache::s3://b/a.gz
        name = (first if "://" in first else rest).partition("?")[0]
    if name.endswith(".gz"):
        return lambda: zlib.decompressobj(wbits=31)
    if name.endswith(".zst"):  # archives are made with --long=31
        return lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    return None


class _Decompressed(io.RawIOBase):
    """Gzip members or Zstandard frames one after the other.

    The Zstandard package's own reader takes a file that was cut short for a whole one, and buffered readers lose what
    comes shortly before the damage.
    """

    def __init__(self, file: BinaryIO, new_frame: Callable[[], Any]) -> None:
        self._file, self._new_frame = file, new_frame
        self._frame: Any = None
        self._input = b""
        self._output = memoryview(b"")
        self._empty = True
        self._failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        filled = 0
        while filled < len(buffer) and self._failure is None:
            if not self._output and not self._next():
                break
            count = min(len(buffer) - filled, len(self._output))
            buffer[filled : filled + count], self._output = self._output[:count], self._output[count:]
            filled += count
        if not filled and self._failure is not None:
            raise self._failure
        return filled

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def _next(self) -> bool:
        """Decompresses a little more; False at the end or at damage."""
        try:
            while not self._output:
                # So little at a time, for a quarter of a kilobyte can hold 8 MiB of one letter.
                data, self._input = self._input or self._file.read(256), b""
                if not data:
                    if self._frame is not None or self._empty:
                        raise EOFError("the compressed file ends too early")
                    return False
                if self._frame is None:
                    data = data if self._empty else data.lstrip(b"\0")  # archives are padded with zeros
                    if not data:
                        continue
                    self._frame, self._empty = self._new_frame(), False
                self._output = memoryview(self._frame.decompress(data))
                if self._frame.eof:
                    self._input, self._frame = self._frame.unused_data, None
        except DAMAGE as error:
            self._failure = error
        return bool(self._output)
