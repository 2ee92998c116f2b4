"""Tokens, servers that stop, and hostile names, as a browser shows them."""

import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from ingest.config import SourceConfig
from serve.api.tokens import FILE as TOKENS_FILE
from serve.api.tokens import create_token
from serve.settings import Settings
from support.browser import until
from support.fakes import use_fakes
from support.running import Running, running

pytestmark = pytest.mark.browser
Open = Callable[..., Page]


@pytest.fixture
def guarded(library: Path, films: Path, tmp_path: Path) -> Iterator[tuple[Running, str]]:
    """A server with tokens, and a token for all of it."""
    data = tmp_path / "guarded"
    shutil.copytree(library, data)
    now = datetime.now(UTC)
    token = create_token(data / TOKENS_FILE, "ana", collections=None, can_write=True, expire_time=None, now=now)
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        settings = Settings(workers=2, source=SourceConfig(file_roots=(str(films),)))
        with running(data, settings, http_listen="127.0.0.1:0") as server:
            yield server, token


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()


def test_a_token_opens_the_console_with_pictures_and_media(guarded: tuple[Running, str], open_page: Open) -> None:
    server, token = guarded
    page = open_page(f"{server.server.http.url}/?q=red", expected="401")
    expect(page.get_by_role("dialog")).to_contain_text("This server asks for a token.")
    sign_in(page, token)
    until(page, "document.querySelector('.card img')?.naturalWidth > 0")
    page.locator(".card a.open").first.click()
    until(page, "document.querySelector('video')?.readyState >= 2")
    source = str(page.locator("video").get_attribute("src"))
    assert token not in source  # a link carries a signature, never the token
    assert token not in page.url


def test_a_token_that_ends_is_asked_for_again(guarded: tuple[Running, str], open_page: Open) -> None:
    server, _ = guarded
    now = datetime.now(UTC)
    path = server.server.directory / TOKENS_FILE
    ending = create_token(
        path,
        "brief",
        collections=None,
        can_write=False,
        expire_time=now - timedelta(hours=1),
        now=now - timedelta(days=1),
    )
    page = open_page(server.server.http.url, expected="401")
    sign_in(page, ending)
    expect(page.get_by_role("dialog")).to_contain_text("no longer takes this tab's token")


def test_a_server_that_stops_is_said_and_back_works(
    open_page: Open, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(library, tmp_path / "data")
    use_fakes(monkeypatch)
    with running(tmp_path / "data", http_listen="127.0.0.1:0") as server:
        address = server.server.http.url
        page = open_page(f"{address}/?q=red", expected="ERR_")
        expect(page.locator(".card").first).to_be_visible()
    page.get_by_role("link", name="Videos", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
    with running(tmp_path / "data", http_listen=address.removeprefix("http://")):
        page.get_by_role("button", name="Try again").click()
        expect(page.locator(".card").first).to_be_visible()


@pytest.mark.parametrize("path", ["/?q=red", "/library", "/?q=paris", "VIDEO", "VIDEO&tab=about"])
def test_names_and_words_of_videos_are_never_markup(site: str, hostile_name: str, open_page: Open, path: str) -> None:
    if path.startswith("VIDEO"):
        page = open_page(f"{site}/?q=red")
        card = page.locator(".card").filter(has_text="onerror").first
        link = str(card.locator("a.open").get_attribute("href"))
        page.goto(site + link + path.removeprefix("VIDEO"))
    else:
        page = open_page(site + path)
    shown = hostile_name.replace("\u202e", "\\u202e")
    expect(page.get_by_text(shown).first).to_be_visible()  # as text, and what reorders letters as its number
    assert page.locator("img[src='x'], script:not([src])").count() == 0


def test_a_hostile_question_is_text(site: str, open_page: Open) -> None:
    page = open_page(f"{site}/?q=%3Cscript%3Ealert(1)%3C/script%3E&exclude=%3Cb%3E")
    expect(page.locator(".state")).not_to_have_text(re.compile("Searching"))
    assert page.locator("main script, main b").count() == 0
    expect(page).to_have_title("<script>alert(1)</script> · Kinodex")
