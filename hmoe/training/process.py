"""What hmoe does to the processes that work for it, and never to one that only imports it.

A step allocates and frees the same large arrays as the step before. The C library of GNU hands
every one above some size back to the system, which maps and clears its pages again in the next
step: with 256 experts 70,000 page faults a step. Kept, a step of that layer takes 0.65 of the time,
one of 16 experts 0.92, at 1.2 and 1.03 of the peak memory. A whole small model gains nothing
(reports/bench/train.md).
"""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_memory() -> bool:
    """Let freed memory stay with the process. Returns whether the C library can; only GNU's can."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))


@contextmanager
def spared_collection() -> Iterator[None]:
    """Keep the search for garbage off what is there before the work begins.

    That is a million objects of libraries, and to look through them takes 0.25 s each time; in a
    forked process it also copies the pages that it shares with the server.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
