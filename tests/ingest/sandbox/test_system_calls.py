"""The numbers of the system calls that the decoding child may make, beside those of the kernel's own headers."""

import re
from pathlib import Path

import pytest

from ingest.sandbox.system_calls import CALLS, CLONE3, SECCOMP

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
PREFIX = r"#define __NR(?:3264)?_"  # 3264: calls of two widths, such as mmap


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"{HEADERS[machine]} is not installed")
    text = HEADERS[machine].read_text()
    numbers = {name: int(number) for name, number in re.findall(PREFIX + r"(\w+)\s+(\d+)", text)}
    ours = {name: pair[machine == "aarch64"] for name, pair in CALLS.items()}
    assert ours == {name: numbers.get(name) for name in CALLS}
    assert (CLONE3, SECCOMP[machine]) == (numbers["clone3"], numbers["seccomp"])
