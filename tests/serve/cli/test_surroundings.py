"""The command in odd surroundings: locales, closed streams, folders that are gone, arguments of any bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve.catalog.catalog import Catalog
from serve.cli.failures import _explain
from support.sample_catalog import MEDIA, SPACE, new_video
from support.waiting import HANG_SECONDS

ROOT = Path(__file__).resolve().parents[3]
COMMAND = f"{sys.executable} -m kinodex"
NAME = "ça va.mp4"


def run(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script of a shell, in which `$K` is the command."""
    path = f"{ROOT}{os.pathsep}{ROOT / 'protos'}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "KINODEX_"))}
    return subprocess.run(
        ["sh", "-c", script], cwd=folder, env=kept | {"PYTHONPATH": path, "K": COMMAND} | variables,
        capture_output=True, encoding="utf-8", timeout=HANG_SECONDS, check=False,
    )  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A library with one video, in a folder whose name has letters outside of ASCII."""
    folder = tmp_path / "dätä #1?"
    with Catalog.open_writer(folder) as catalog:
        catalog.set_space(SPACE)
        row = catalog.begin(new_video("3fa9", uri=str(tmp_path / NAME)))
        catalog.finish(row, media=MEDIA, duration_seconds=5.0, warnings=())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
        {
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONIOENCODING": "ascii",
            "COLUMNS": "20",
            "TERM": "dumb",
            "NO_COLOR": "1",
        },
        {"LC_ALL": "xx_YY.UTF-8", "HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
    ],
)
def test_names_are_the_same_in_every_locale(data: Path, tmp_path: Path, variables: dict[str, str]) -> None:
    done = run(f"$K list --json --data '{data}'; $K show 'für' --data '{data}'", tmp_path, **variables)
    assert json.loads(done.stdout)["uri"] == str(tmp_path / NAME)
    assert done.stderr.replace("\\xfc", "ü") == "kinodex: error: no video für: see `kinodex list`\n"


@pytest.mark.slow
def test_closed_streams_are_as_the_null_device(data: Path, tmp_path: Path) -> None:
    """The catalog must not get the descriptor of a closed stream: what is printed would be written into it."""
    script = (
        f"$K list --data '{data}' <&- >&- && $K list --json --data '{data}' >&- 2>&- && $K list --data '{data}' <&-"
    )
    done = run(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert NAME in done.stdout


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    done = run("mkdir gone && cd gone && rmdir ../gone && $K list", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "kinodex: error: the current folder is gone (No such file or directory): change to another\n"
    )


@pytest.mark.slow
def test_arguments_that_are_not_utf8_are_named(data: Path, tmp_path: Path) -> None:
    done = run(f"$K show $(printf 'c\\351') --data '{data}'; $K search $(printf 'c\\351')", tmp_path)
    assert done.stderr == (
        "kinodex: error: not UTF-8 text: c\N{REPLACEMENT CHARACTER}\n"
        "kinodex: error: QUERY is not UTF-8 text (see kinodex search --help)\n"
    )
    with pytest.raises(UnicodeEncodeError) as caught:
        "\ud83d".encode()  # half a letter: no bytes of an argument, but a bug
    assert _explain(caught.value, debug=False).startswith("internal error")
