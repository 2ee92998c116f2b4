"""Takes from the decoding child everything that decoding does not need, before it sees untrusted bytes.

Injected code finds no file, no network, no other process, no new process and no rights. Each wall stands alone: a
kernel or a container that lacks one still has the others, and `kinodex doctor` names what is missing.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable

from ingest.sandbox.landlock import refuse_files_and_network
from ingest.sandbox.system_calls import filter_system_calls

# What stands around a child, in the order of its making. seccomp comes last: it refuses the calls of the others.
WALLS = ("another user than root", "no capabilities", "no new privileges", "Landlock", "seccomp")
NOBODY = 65534  # the user and the group that own nothing
CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
LAST_CAPABILITY = 63  # the highest that the kernel could have
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38  # <linux/prctl.h>


def end_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; only Linux can."""
    if sys.platform == "linux":
        _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)


def confine(parent: int) -> dict[str, str]:
    """Confine this process for good. Return the walls that this machine lacks, and why; empty: all stand.

    Call it with a single thread, after all modules are loaded.
    """
    builders: tuple[Callable[[], None], ...] = (
        lambda: _become_nobody(parent),
        _drop_capabilities,
        _refuse_privileges,
        refuse_files_and_network,
        filter_system_calls,
    )
    missing = {}
    for name, build in zip(WALLS, builders, strict=True):
        try:
            build()
        except OSError as error:
            missing[name] = error.strerror or str(error)
    return missing


def _become_nobody(parent: int) -> None:
    """Where this process is root, give up root's user and groups."""
    if os.geteuid() != 0:
        return
    if sys.platform == "linux":
        for capability in range(LAST_CAPABILITY + 1):  # while it still may; unknown ones are refused
            _libc().prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        end_with(parent)  # the kernel has forgotten it with the user
    else:
        raise OSError(errno.ENOSYS, f"not done on {platform.system()}")


def _drop_capabilities() -> None:
    if sys.platform != "linux":
        return  # there are none
    header, nothing = struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24)
    _check(_libc().capset(header, nothing))


def _refuse_privileges() -> None:
    """No program that this process may start gets other rights, and no process of the same user may look into it."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"{platform.system()} has no such switch")
    _check(_libc().prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
    _check(_libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
