"""Injected code in a decoding child finds every door shut; where the machine lacks a wall, it is named."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest.config import DecodeConfig
from ingest.errors import DecodeError
from ingest.sandbox import process as sandbox
from ingest.sandbox.confinement import NOBODY
from ingest.sandbox.pool import DecodePool
from ingest.values import DecodeSummary, Frame, MediaInfo
from support import ROOT, SUPPORT
from support.injected import DOORS, LANDLOCKED
from support.photos import draw_quarters, encode_picture

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seccomp, Landlock and capabilities are Linux's")

CONFIG = DecodeConfig()
SCRIPT = """#!{python}
import errno, sys
sys.path[:0] = {paths}
from ingest.sandbox import child, confinement
from support import injected

def lack():
    raise OSError(errno.ENOSYS, "not here")

warm_up = child._warm_up

def inject(decodes_stills):
    warm_up(decodes_stills)
    {code}

child._warm_up = inject
child.main(*map(int, sys.argv[4:7]), decodes_stills="stills" in sys.argv)
"""

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def patch_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that has later children run `code` after they have loaded, before they are confined."""

    def patch(code: str) -> None:
        fake = tmp_path / "python"
        paths = [str(ROOT), str(SUPPORT.parent), *sys.path]
        fake.write_text(SCRIPT.format(python=sys.executable, paths=paths, code=code))
        fake.chmod(0o755)
        monkeypatch.setattr(sandbox.sys, "executable", str(fake))

    return patch


@pytest.fixture
def inject(patch_child: Callable[[str], None]) -> Run:
    """Return a function that runs support.injected in a child, and returns its report and what /proc says."""

    def run(code: str = "pass") -> dict[str, Any]:
        patch_child(f"child.decode = injected.decode; {code}")
        with DecodePool(CONFIG, workers=1) as pool:
            with pytest.raises(DecodeError) as caught:
                list(pool.decode(io.BytesIO(b"any bytes"), uri="x"))
            assert type(caught.value) is DecodeError
            (child,) = pool._children
            folder = Path(f"/proc/{child._process.pid}")
            status = dict(
                line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line
            )
            environ = (folder / "environ").read_bytes().decode() if os.geteuid() == 0 else ""
            names = {line.partition("=")[0] for line in environ.split("\0") if line}
            report = json.loads(caught.value.reason)
            return report | {"status": status, "names": names, "missing": child.missing_walls}

    return run


@pytest.fixture(scope="module")
def missing() -> dict[str, str]:
    """The walls that this machine lacks."""
    with DecodePool(CONFIG, workers=1) as pool:
        return pool.missing_walls()


def test_injected_code_finds_every_door_shut(inject: Run, missing: dict[str, str]) -> None:
    if "seccomp" in missing:
        pytest.skip(f"no seccomp: {missing['seccomp']}")
    report = inject()
    assert report["doors"] == dict.fromkeys(DOORS, "EPERM")
    assert report["read"] == len(b"any bytes")  # and decoding can work
    assert report["allocated"] == 64 << 20


def test_the_child_has_neither_rights_nor_secrets(
    inject: Run, missing: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINODEX_SERVER_WEBHOOK_SECRET", "a secret of sixteen bytes")
    report = inject()
    status = report["status"]
    assert report["environment"] == {}
    assert report["names"] <= {*sandbox.LOADER_VARIABLES, "PYTHONUSERBASE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Threads"] == "1"  # Landlock and the capabilities are those of a thread
    if os.geteuid() == 0 and "another user than root" not in missing:
        assert status["Uid"].split() == status["Gid"].split() == [str(NOBODY)] * 4
        assert status["Groups"].strip() == ""
        assert status["CapBnd"] == "0" * 16
    if "seccomp" not in missing:
        assert status["Seccomp"] == "2"


def test_landlock_shuts_its_doors_without_seccomp(inject: Run, missing: dict[str, str]) -> None:
    if "Landlock" in missing:
        pytest.skip(f"no Landlock: {missing['Landlock']}")
    report = inject("confinement.filter_system_calls = lack")
    assert report["missing"] == {**missing, "seccomp": "not here"}
    assert {report["doors"][name] for name in LANDLOCKED} == {"EACCES"}


def test_decoding_goes_on_without_walls_that_a_kernel_lacks(patch_child: Callable[[str], None]) -> None:
    patch_child("confinement.filter_system_calls = confinement.refuse_files_and_network = lack")
    with DecodePool(CONFIG, workers=1) as pool:
        missing = pool.missing_walls()
        assert (missing["Landlock"], missing["seccomp"]) == ("not here", "not here")
        photo = encode_picture(draw_quarters(), "PNG")
        assert [type(item) for item in pool.decode(io.BytesIO(photo), uri="x")] == [MediaInfo, Frame, DecodeSummary]


def test_seccomp_shuts_every_door_without_landlock_and_as_root(inject: Run, missing: dict[str, str]) -> None:
    if "seccomp" in missing:
        pytest.skip(f"no seccomp: {missing['seccomp']}")
    report = inject("confinement.refuse_files_and_network = lack; confinement._become_nobody = lambda parent: lack()")
    assert report["missing"] == {**missing, "Landlock": "not here", "another user than root": "not here"}
    assert report["doors"] == dict.fromkeys(DOORS, "EPERM")
