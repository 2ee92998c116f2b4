"""Landlock, <linux/landlock.h>: the kernel refuses this process files, TCP and signals, also without seccomp.

Three system calls, with an empty list of exceptions. PyPI's `landlock` has had no release that is not a preview.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# The numbers are the same on all architectures.
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_CREATE_RULESET_VERSION = 1  # a flag: return the version
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # version -> number of rights on files that it can refuse
NET_VERSION, NET_RIGHTS = 4, 0b11  # TCP: bind and connect
SCOPE_VERSION, SCOPES = 6, 0b11  # other processes: abstract sockets and signals


def refuse_files_and_network() -> None:
    """Refuse this thread, and threads it starts, to open files and more, for good. It needs no_new_privs.

    Open descriptors go on.

    Raises:
        OSError: If the kernel has no Landlock, or the container forbids it.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"{platform.system()} has no Landlock")
    libc = ctypes.CDLL(None, use_errno=True)
    version = _call(libc, LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    rights = [(1 << max(count for since, count in FILE_RIGHTS.items() if since <= version)) - 1]
    if version >= NET_VERSION:
        rights.append(NET_RIGHTS)
    if version >= SCOPE_VERSION:
        rights.append(SCOPES)
    attributes = struct.pack(f"={len(rights)}Q", *rights)
    ruleset = _call(libc, LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        _call(libc, LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _call(libc: ctypes.CDLL, number: int, *arguments: bytes | int | None) -> int:
    longs = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    result = int(libc.syscall(ctypes.c_long(number), *longs))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
