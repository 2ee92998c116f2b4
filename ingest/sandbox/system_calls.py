"""A seccomp filter for the decoding child: the system calls that decoding needs, and no other.

Written by hand, since PyPI's `pyseccomp` has had no release since 2021 and needs a libseccomp that many machines lack.
The filter is a program of classic BPF, <linux/filter.h>, which the kernel runs at each system call.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator

# Calls by name, with their numbers on x86-64 and on 64-bit ARM; None: the architecture has no such call.
CALLS: dict[str, tuple[int | None, int | None]] = {
    # the socket, the input, and messages to /dev/null
    "read": (0, 63),
    "pread64": (17, 67),
    "close": (3, 57),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "sendto": (44, 206),
    "write": (1, 64),
    # memory
    "brk": (12, 214),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    # threads
    "clone": (56, 220),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "gettid": (186, 178),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "prctl": (157, 167),
    # signals and the end
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "getpid": (39, 172),
    "tgkill": (234, 131),
    "exit": (60, 93),
    "exit_group": (231, 94),
    # time, limits and chance
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "getrusage": (98, 165),
    "prlimit64": (302, 261),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getrandom": (318, 278),
}
CLONE3 = 435  # on both; refused as unknown, so that the C library makes threads by clone, whose flags can be checked
SECCOMP = {"x86_64": 317, "aarch64": 277}  # the number of seccomp()
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # <linux/audit.h>
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1  # TSYNC: for all threads of the process
ALLOW, FAIL, KILL = (
    0x7FFF0000,
    0x00050000,
    0x80000000,
)  # what to do with a call: SECCOMP_RET_ALLOW, _ERRNO, _KILL_PROCESS
LOAD, EQUAL, GREATER, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06  # BPF_LD, BPF_JMP, BPF_ALU, BPF_RET
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # places in struct seccomp_data

SOCKET = 3  # descriptor of the child's socket; 0, 1 and 2 are /dev/null, and 4 is the input
PR_SET_NAME = 15
CLONE_THREAD = 0x10000
PROT_EXEC = 4
MAP_TYPE, MAP_PRIVATE = 3, 2  # shared memory does not count towards max_memory_bytes


class _BpfProgram(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def filter_system_calls() -> None:
    """Allow this process the calls in CALLS, for good: others fail with EPERM. It needs no_new_privs.

    Raises:
        OSError: If the kernel, or the container, refuses a filter, or the architecture has no list.
    """
    machine = platform.machine()
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"{platform.system()} has no seccomp")
    if machine not in AUDIT_ARCH or sys.maxsize < 1 << 32:
        raise OSError(errno.ENOSYS, f"there is no list of system calls for {machine}")
    program = b"".join(_assemble(machine))
    arguments = _BpfProgram(len(program) // 8, program)
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(SECCOMP[machine], SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(arguments))
    if result != 0:  # above 0: a thread with a filter of its own
        code = ctypes.get_errno() or errno.EBUSY
        raise OSError(code, os.strerror(code))


def _assemble(machine: str) -> Iterator[bytes]:
    """Yield the instructions of the filter, 8 bytes each."""
    yield _step(LOAD, ARCHITECTURE)
    yield _step(EQUAL, AUDIT_ARCH[machine], skip_if_true=1)
    yield _step(RETURN, KILL)
    yield _step(LOAD, NUMBER)
    yield _step(EQUAL, CLONE3, skip_if_false=1)
    yield _step(RETURN, FAIL | errno.ENOSYS)
    for name, numbers in CALLS.items():
        number = numbers[0] if machine == "x86_64" else numbers[1]
        if number is None:
            continue
        steps = [*_check_arguments(name), _step(RETURN, ALLOW)]
        yield _step(EQUAL, number, skip_if_false=len(steps))
        yield from steps
    yield _step(RETURN, FAIL | errno.EPERM)


def _check_arguments(name: str) -> list[bytes]:
    """Return instructions that refuse a call with other arguments than decoding needs."""
    refuse = _step(RETURN, FAIL | errno.EPERM)
    if name in ("recvfrom", "recvmsg", "sendto"):
        return [_load(0), _step(EQUAL, SOCKET, skip_if_true=1), refuse]
    if name == "write":
        return [_load(0), _step(GREATER, SOCKET - 1, skip_if_false=1), refuse]
    if name == "mmap":
        private = [_load(3), _step(AND, MAP_TYPE), _step(EQUAL, MAP_PRIVATE, skip_if_true=1), refuse]
        return [*_refuse_code(refuse), *private]
    if name == "mprotect":
        return _refuse_code(refuse)
    if name == "clone":
        return [_load(0), _step(ANY_BIT, CLONE_THREAD, skip_if_true=1), refuse]
    if name == "tgkill":  # abort()
        return [_load(0), _step(EQUAL, os.getpid(), skip_if_true=1), refuse]
    if name == "prctl":
        return [_load(0), _step(EQUAL, PR_SET_NAME, skip_if_true=1), refuse]
    if name == "prlimit64":  # of this process
        return [_load(0), _step(EQUAL, 0, skip_if_true=1), refuse]
    return []


def _refuse_code(refuse: bytes) -> list[bytes]:
    return [_load(2), _step(ANY_BIT, PROT_EXEC, skip_if_false=1), refuse]


def _load(argument: int) -> bytes:
    """Load the lower half of an argument: none of those that are checked is longer to the kernel."""
    return _step(LOAD, ARGUMENTS + 8 * argument)


def _step(code: int, operand: int, *, skip_if_true: int = 0, skip_if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, skip_if_true, skip_if_false, operand)
