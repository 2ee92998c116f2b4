"""Builds the clients that the tests run, outside the repository: in .venv/clients, once.

All versions are pinned with their checksums, in go/go.sum and node/package-lock.json. To move to newer ones, run
`go get` and `go mod tidy` in .venv/clients/go, or `npm install` in .venv/clients/node, and copy those files back.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "clients"
PROTOS = ROOT / "protos"
CACHE = ROOT / ".venv" / "clients"
STEP_SECONDS = 540  # of one step; compiling grpcurl from nothing takes a minute or two of both cores

GO_MODULE = "kinodex.test/client"  # as in go/go.mod
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl"
PLUGINS = ("google.golang.org/protobuf/cmd/protoc-gen-go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc")
API = ("kinodex/v1/moment.proto", "kinodex/v1/library_service.proto", "kinodex/v1/search_service.proto")


class ToolMissing(Exception):
    """Something that is not ours is not here, or cannot be fetched."""


# ------------------------------------------------------------------ Go
def grpcurl() -> Path:
    """Build grpcurl and return its path.

    Raises:
        ToolMissing: If there is no Go, or no network to fetch modules from.
    """
    with lock_folder("go") as folder:
        fetch_modules(folder)
        go_build(folder, GRPCURL)
        return folder / "bin" / "grpcurl"


def go_client() -> Path:
    """Generate Go stubs of our protos, build go/main.go with them, and return the program's path.

    Raises:
        ToolMissing: If there is no Go, or no network to fetch modules from.
    """
    with lock_folder("go") as folder:
        fetch_modules(folder)
        go_build(folder, *PLUGINS)
        generate_stubs(folder)
        go_build(folder, GO_MODULE)
        return folder / "bin" / "client"


def fetch_modules(folder: Path) -> None:
    for name in ("go.mod", "go.sum", "main.go"):
        shutil.copy(HERE / "go" / name, folder)
    fetch("the Go modules", ["go", "mod", "download"], folder)


def go_build(folder: Path, *packages: str) -> None:
    # Optimizing and debugging information would be a third of the work, and these programs wait for the server anyway.
    flags = ["-buildvcs=false", "-mod=readonly", "-gcflags=all=-N -l -dwarf=false", "-ldflags=-s -w"]
    # All is fetched by now: what fails here is ours, not the network's.
    build(["go", "build", *flags, "-o", f"bin{os.sep}", *packages], folder, GOPROXY="off")


def generate_stubs(folder: Path) -> None:
    """Write Go code of our protos; they name no Go package, so the options do."""
    package = f"{GO_MODULE}/kinodexv1"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTOS)]
    for plugin in ("go", "go-grpc"):
        command += [f"--plugin=protoc-gen-{plugin}={folder / 'bin' / f'protoc-gen-{plugin}'}", f"--{plugin}_out=."]
        command += [f"--{plugin}_opt=module={GO_MODULE}"]
        command += [f"--{plugin}_opt=M{name}={package}" for name in API]
    build([*command, *API], folder)


# ------------------------------------------------------------------ Node
def node_client() -> list[str]:
    """Return the command that runs node/client.js.

    Raises:
        ToolMissing: If there is no Node or npm, or no network to fetch packages from.
    """
    return node_program("client.js")


def node_segments() -> list[str]:
    """Return the command that runs node/segments.js.

    Raises:
        ToolMissing: If there is no Node or npm, or no network to fetch packages from.
    """
    return node_program("segments.js")


def node_events() -> list[str]:
    """Return the command that runs node/events.js.

    Raises:
        ToolMissing: If there is no Node or npm, or no network to fetch packages from.
    """
    return node_program("events.js")


def node_connect() -> list[str]:
    """Return the command that runs node/connect.js.

    Raises:
        ToolMissing: If there is no Node or npm, or no network to fetch packages from.
    """
    return node_program("connect.js")


def node_program(name: str) -> list[str]:
    """Install what the programs in node/ need."""
    with lock_folder("node") as folder:
        for file in ("package.json", "package-lock.json", name):
            shutil.copy(HERE / "node" / file, folder)
        wanted, installed = (folder / "package-lock.json").read_text(), folder / "installed"
        if not installed.exists() or installed.read_text() != wanted:
            command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            fetch("the npm packages", command, folder)
            installed.write_text(wanted)
        return [find_program("node"), str(folder / name)]


# ------------------------------------------------------------------ one step
@contextmanager
def lock_folder(name: str) -> Iterator[Path]:
    """Yield a folder of the cache, locked against other processes that build in it."""
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def find_program(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ToolMissing(f"{program} is not installed")
    return path


def fetch(what: str, command: Sequence[str], folder: Path) -> None:
    """Run a command that needs the network.

    Raises:
        ToolMissing: If it fails, with the last that it said.
    """
    done = run([find_program(command[0]), *command[1:]], folder)
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ToolMissing(f"{what} cannot be fetched: {' '.join(said[-3:]) or f'exit status {done.returncode}'}")


def build(command: Sequence[str], folder: Path, **environment: str) -> None:
    """Run a command that must succeed."""
    done = run(command, folder, **environment)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def run(command: Sequence[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolMissing(f"{command[0]} did not end within {STEP_SECONDS} s") from error


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A server, and what a client needs to reach it."""

    address: str
    url: str  # of HTTP
    ca: Path | None  # None: it speaks plain text
    token: str  # reads and writes
    reading_token: str
    films: Path  # the folder whose files it may index
