"""What a process that writes for a user sets before it does anything: nobody else writes what it will read."""

import os
from pathlib import Path


def guard_process() -> None:
    """Makes what this process and its children create unwritable for the world, and moves a cache of code out of /tmp.

    Torch's compiler keeps pickles and machine code in ``/tmp/torchinductor_USER``, which anybody may have made before
    (torch 2.13 does not look at the owner); they go to the user's own cache, unless $TORCHINDUCTOR_CACHE_DIR is set.
    """
    os.umask(os.umask(0o077) | 0o002)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(caches / "torchinductor"))
