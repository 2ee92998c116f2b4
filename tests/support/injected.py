"""What code would do that a hostile file brings into the decoding child: it tries every door, and says what happened.

It stands in the place of ingest.media.decode.decode in a real child; see tests/ingest/sandbox/test_confinement.py.
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from ingest.errors import DecodeError

INPUT = 4  # descriptor of the input
# Calls of Linux that Python has no function for: numbers on x86-64 and on 64-bit ARM.
NUMBERS = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "pidfd_open": (434, 434),
    "memfd_create": (319, 279),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "mount": (165, 40),
    "unshare": (272, 97),
    "clone": (56, 220),
    "execve": (59, 221),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "shmget": (29, 194),
    "userfaultfd": (323, 282),
}
CLONE_NEWUSER, SIGCHLD, PTRACE_ATTACH = 0x10000000, 17, 16
PAGE = mmap.PAGESIZE


def call(name: str, *arguments: Any) -> None:
    number = NUMBERS[name]["aarch64" in os.uname().machine]
    longs = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *longs)
    if result == 0 and name == "clone":
        os._exit(0)  # the new process
    if result < 0:
        raise OSError(ctypes.get_errno(), name)


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def connect(family: int, address: Any) -> None:
    with socket.socket(family) as connection:
        connection.connect(address)


def raise_limit(kind: int) -> None:
    hard = resource.getrlimit(kind)[1]
    try:
        resource.setrlimit(kind, (hard + 1, hard + 1))
    except ValueError as error:  # what Python makes of EPERM
        raise PermissionError(errno.EPERM, "setrlimit") from error


def set_parents_limit(parent: int) -> None:
    resource.prlimit(parent, resource.RLIMIT_CORE)


# Doors that seccomp shuts.
DOORS: dict[str, Callable[[int], object]] = {
    "read a file": lambda parent: os.open("/etc/passwd", os.O_RDONLY),
    "list a folder": lambda parent: os.listdir("/"),
    "write a file": lambda parent: os.open("/tmp/kinodex-injected", os.O_CREAT | os.O_WRONLY),
    "look at a file": lambda parent: os.stat("/etc/passwd"),
    "remove a file": lambda parent: os.unlink("/tmp/kinodex-injected"),
    "make a link": lambda parent: os.symlink("/etc/passwd", "/tmp/kinodex-injected"),
    "make a file in memory": lambda parent: call("memfd_create", b"x", 0),
    "write to the input": lambda parent: os.write(INPUT, b"x"),
    "write into the input": lambda parent: os.pwrite(INPUT, b"x", 0),
    "move the input's position": lambda parent: os.lseek(INPUT, 1, os.SEEK_SET),
    "cut the input": lambda parent: os.ftruncate(INPUT, 0),
    "connect by TCP": lambda parent: connect(socket.AF_INET, ("127.0.0.1", 9)),
    "open a socket for UDP": lambda parent: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "open a socket for the kernel": lambda parent: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "connect to a process": lambda parent: connect(socket.AF_UNIX, "\0kinodex-injected"),
    "make a pair of sockets": lambda parent: socket.socketpair(),
    "make a pipe": lambda parent: os.pipe(),
    "fork": lambda parent: fork(),
    "clone a process": lambda parent: call("clone", SIGCHLD, 0, 0, 0, 0),
    "start a program": lambda parent: call("execve", b"/nowhere", None, None),
    "signal the parent": lambda parent: os.kill(parent, 0),
    "trace the parent": lambda parent: call("ptrace", PTRACE_ATTACH, parent, 0, 0),
    "read the parent's memory": lambda parent: call("process_vm_readv", parent, None, 0, None, 0, 0),
    "hold the parent": lambda parent: call("pidfd_open", parent, 0),
    "set the parent's limits": set_parents_limit,
    "become root": lambda parent: os.setuid(0),
    "join groups": lambda parent: os.setgroups([0]),
    "make a user namespace": lambda parent: call("unshare", CLONE_NEWUSER),
    "change the root": lambda parent: os.chroot("/"),
    "mount": lambda parent: call("mount", b"none", b"/", b"tmpfs", 0, None),
    "load a program into the kernel": lambda parent: call("bpf", 0, None, 0),
    "make a ring of calls": lambda parent: call("io_uring_setup", 1, bytes(120)),
    "count events": lambda parent: call("perf_event_open", None, 0, -1, -1, 0),
    "keep a key": lambda parent: call("add_key", b"user", b"x", b"y", 1, -3),
    "handle page faults": lambda parent: call("userfaultfd", 0),
    "share memory": lambda parent: call("shmget", 1, PAGE, 0o1600),
    "map shared memory": lambda parent: mmap.mmap(-1, PAGE),
    "map memory for code": lambda parent: call("mmap", 0, PAGE, 7, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0),
    "make memory code": lambda parent: call("mprotect", 0x10000, PAGE, 5),
    "raise the memory limit": lambda parent: raise_limit(resource.RLIMIT_DATA),
    "raise the limit on files": lambda parent: raise_limit(resource.RLIMIT_NOFILE),
    "be dumped": lambda parent: check_prctl(4, 1),
    "outlive the parent": lambda parent: check_prctl(1, 0),
}
# Doors that Landlock shuts, with what a kernel of its first version does not know left out.
LANDLOCKED = ("read a file", "list a folder", "write a file")


def check_prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def decode(file: Any, **options: Any) -> Iterator[NoReturn]:
    """Try all doors; report by an error, as the decoder does."""
    os.close(2)  # the limit on descriptors leaves room for a file now
    raise DecodeError("", json.dumps({"doors": dict(try_doors()), "environment": dict(os.environ)} | try_work(file)))
    yield  # a generator, as the decoder is


def try_doors() -> Iterator[tuple[str, str]]:
    for name, enter in DOORS.items():
        try:
            enter(PARENT)
        except OSError as error:
            yield name, errno.errorcode.get(error.errno or 0, str(error))
        else:
            yield name, "open"


def try_work(file: Any) -> dict[str, Any]:
    """Do what decoding needs."""
    threads = [threading.Thread(target=time.sleep, args=(0.01,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"read": len(file.read(1 << 20)), "allocated": len(bytes(64 << 20))}


PARENT = int(sys.argv[6]) if len(sys.argv) > 6 and sys.argv[6].isdigit() else 0  # the arguments of ingest.sandbox.child
