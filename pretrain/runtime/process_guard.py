"""Settings of a process before it does anything, so that no other user can write what it will read."""

import os
from pathlib import Path


def guard_process() -> None:
    """Keeps what this process and its children create from being world-writable, and moves a cache of code out of /tmp.

    Torch's compiler keeps pickles and machine code in ``/tmp/torchinductor_USER``, which anybody may have made before
    (torch 2.13 does not look at the owner); they go to the user's own cache, unless $TORCHINDUCTOR_CACHE_DIR is set.
    """
    os.umask(os.umask(0o077) | 0o002)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(caches / "torchinductor"))
