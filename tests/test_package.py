"""The public package `kinodex`: what it exports, how it runs, what its wheel holds and types for other programs."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import kinodex
from kinodex.shadowing import PACKAGES
from serve.client.client import Client
from serve.search.library import Library

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "faiss", "av", "transformers", "open_clip", "whisper", "sentence_transformers", "PIL")
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}


def python(folder: Path, *arguments: str, executable: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder that is not the checkout."""
    return subprocess.run(
        [executable, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


# ------------------------------------------------------------------ names
def test_importing_the_client_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"import sys; from kinodex import Client, ClientConfig; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = python(tmp_path, "-c", code)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_importing_the_package_loads_none_of_the_stages(tmp_path: Path) -> None:
    code = f"import sys, kinodex; print(*sorted(set(sys.modules) & set({PACKAGES!r})), dir(kinodex))"
    assert python(tmp_path, "-c", code).stdout == f"{sorted(kinodex.__all__)}\n"


def test_the_package_exports_what_it_lists() -> None:
    assert kinodex.Client is Client
    assert kinodex.Library is Library
    assert kinodex.v1.__name__ == "kinodex.v1"
    assert all(hasattr(kinodex, name) for name in kinodex.__all__)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        kinodex.nothing_like_it  # noqa: B018


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "kinodex", "--version")
    assert (done.returncode, done.stdout) == (0, f"kinodex {kinodex.__version__}\n")


# ------------------------------------------------------------------ modules of the caller that hide ours
@pytest.mark.parametrize("name", PACKAGES)
def test_a_module_that_hides_ours_is_named_by_the_command(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").touch()
    done = python(tmp_path, "-m", "kinodex", "--help")
    advice = "rename it, or start Python in another folder"
    line = f"kinodex: error: {tmp_path / name}.py hides the package {name!r} of kinodex: {advice}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


@pytest.mark.parametrize("name", ["serve.py", "serve/__init__.py"])
def test_a_module_that_hides_ours_is_named_by_the_import(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("from kinodex import Client\n", encoding="utf-8")
    done = python(tmp_path, "-c", "from kinodex import Client")
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {tmp_path / name} hides the package 'serve' of")


def test_a_program_of_the_name_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text("from kinodex import Client\n", encoding="utf-8")
    done = python(tmp_path, "serve.py")
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {tmp_path / 'serve.py'} hides the package 'serve' of")


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protos" / "kinodex", tmp_path / "kinodex")
    code = "import sys; sys.meta_path[3:] = []; import kinodex.__main__ as command; command.main()"
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        1,
        "kinodex: error: kinodex is not installed whole: its package 'ingest' is missing; install it again\n",
    )


# ------------------------------------------------------------------ the wheel
@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "protos"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", target, source], check=True)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment of its own, with the dependencies of this one; return its Python."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "bin" / "python"


@pytest.mark.slow
def test_the_wheel_holds_the_demo_and_not_what_makes_its_videos(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (script,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "kinodex = kinodex.__main__:main" in archive.read(script).decode()
    assert {f"{package}/py.typed" for package in ("kinodex", *PACKAGES)} <= set(names)
    assert {"serve/demo/__main__.py", "serve/demo/questions.json", "serve/demo/videos/one_cup.mp4"} <= set(names)
    assert not [name for name in names if name.startswith(("serve/demo/making", "tests/", "benchmarks/"))]


@pytest.mark.slow
def test_an_installed_wheel_runs_anywhere(installed: Path, tmp_path: Path) -> None:
    code = "import kinodex, serve; print(kinodex.__file__, serve.__file__, kinodex.Library.__name__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for arguments, expected in (
        (["-c", code], str(installed.parents[1])),
        (["-m", "kinodex", "--help"], "Usage: kinodex"),
    ):
        done = subprocess.run(
            [installed, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count(expected)


@pytest.mark.slow
def test_an_installed_wheel_types_the_programs_that_use_it(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "from kinodex import Client, Filter, Library, Query, v1\n"
        "from kinodex.v1 import moment_pb2\n"
        'query = Query(text="a red car", filter=Filter(collections=("cars",)))\n'
        'with Library.open("data") as library, Client("localhost:8970") as client:\n'
        "    reveal_type(library.moments(query).moments[0].start_seconds)\n"
        "    reveal_type(client.moments(query).moments[0].uri)\n"
        "reveal_type(moment_pb2.Moment().score)\n"
        'Query(words="a red car")\n'
    )
    options = ["--strict", "--no-incremental", "--python-executable", str(installed)]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "program.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert lines[:3] == [
        'note: Revealed type is "float"',
        'note: Revealed type is "str"',
        'note: Revealed type is "float"',
    ], done.stdout + done.stderr
    assert lines[3] == 'error: Unexpected keyword argument "words" for "Query"  [call-arg]'
    assert len(lines) == 5, done.stdout
