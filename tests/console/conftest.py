"""A browser, and servers whose console it opens."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from ingest.config import SourceConfig
from serve.settings import Settings
from support.fakes import use_fakes, write_scenes
from support.films import index_films, write_films
from support.marks import is_required
from support.running import Running, running

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / ".venv" / "console" / "node_modules" / "axe-core" / "axe.min.js"  # make test-browser installs it
PATIENCE_MILLISECONDS = 30_000.0  # until something must have appeared, on a busy machine
HOSTILE = "<img src=x onerror=alert(1)>&\"'\u202e.mp4"  # a file's name; on Linux only "/" cannot be in one


def missing(reason: str) -> None:
    if is_required("browser"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        missing("Chromium is not here: apt-get install chromium")
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with sync_playwright() as playwright:
        # Root, as in a container, has no sandbox of Chromium's.
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which finds what screen readers and keyboards cannot use."""
    if not AXE.exists():
        missing("axe-core is not here: make test-browser fetches it with npm")
    return AXE.read_text()


@pytest.fixture
def hostile_name() -> str:
    """The name of a file in the library."""
    return HOSTILE


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_films(folder)
    write_scenes(folder / HOSTILE, [("red", 6), ("green", 6)], tones=[(440, 1.0)])
    return folder


@pytest.fixture(scope="session")
def library(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the films, for servers to copy."""
    return index_films(films, tmp_path_factory.mktemp("library") / "data")


@contextmanager
def served(library: Path, films: Path, folder: Path) -> Iterator[Running]:
    """Run a server over a copy of the library."""
    shutil.copytree(library, folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        patch.setenv("KINODEX_SOURCE_FILE_ROOTS", str(films))  # for the ingest worker, a process of its own
        settings = Settings(workers=2, source=SourceConfig(file_roots=(str(films),)))
        with running(folder / "data", settings, http_listen="127.0.0.1:0") as server:
            yield server


@pytest.fixture(scope="module")
def site(library: Path, films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a console for tests that change nothing."""
    with served(library, films, tmp_path_factory.mktemp("site")) as server:
        yield server.server.http.url


@pytest.fixture
def serving(library: Path, films: Path, tmp_path: Path) -> Iterator[Running]:
    """A server of the test's own."""
    with served(library, films, tmp_path) as server:
        yield server


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Open addresses in pages of their own. A page must not log an error, throw, or ask another host for anything."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_address(address: str, *, expected: str = "", **options: object) -> Page:
        """Open an address; `expected` is a part of console errors that may come."""
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})  # type: ignore[arg-type]
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        page = context.new_page()
        origin = "/".join(address.split("/")[:3])

        def note(kind: str, text: str) -> None:
            if not expected or expected not in text:
                problems.append(f"{kind}: {text}")

        page.on("console", lambda message: note("console", message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: note("thrown", str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((origin, "blob:", "data:"))
                else note("request to another host", request.url)
            ),
        )
        page.goto(address)
        return page

    yield open_address
    for context in contexts:
        context.close()
    assert problems == []
