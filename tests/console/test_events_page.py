"""The review queue in a browser: judgements by key and by button, undone, of several, and filters."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from serve.client.client import Client
from serve.settings import Settings
from support.fakes import use_fakes
from support.running import Running, running
from support.waiting import wait_until

pytestmark = pytest.mark.browser
Open = Callable[..., Page]

POLICIES = [
    {"id": "red", "label": "Red", "parents": ["Colours"], "shows": ["red"], "cooldown_seconds": 0, "action": "look"},
    {"id": "paris", "label": "Paris", "parents": ["Places"], "says": ["paris"]},
]


@pytest.fixture
def moderated(library: Path, tmp_path: Path) -> Iterator[Running]:
    """A server whose policies find red and Paris in two of its videos."""
    shutil.copytree(library, tmp_path / "data")
    (tmp_path / "data" / "policies.yaml").write_text(json.dumps({"version": "1", "policies": POLICIES}))
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        with (
            running(tmp_path / "data", Settings(workers=2), http_listen="127.0.0.1:0") as server,
            Client(server.address) as client,
        ):
            wait_until(lambda: len(list(client.events())) == 4)
            yield server


def test_events_are_judged_by_keys_and_judgements_are_undone(moderated: Running, open_page: Open) -> None:
    page = open_page(f"{moderated.server.http.url}/events")
    expect(page.locator(".queue li")).to_have_count(4)
    first = page.locator(".event strong").inner_text()
    page.keyboard.press("a")
    expect(page.locator(".queue li")).to_have_count(3)
    expect(page.locator(".notice")).to_contain_text(f"Approved {first}.")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".queue li")).to_have_count(4)
    page.keyboard.press("j")
    page.get_by_role("textbox", name="Note").fill("a red wall")
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator(".queue li")).to_have_count(3)
    page.get_by_role("link", name="Dismissed").click()
    expect(page.locator(".queue li")).to_have_count(1)
    expect(page.locator(".event")).to_contain_text("dismissed by")
    expect(page.locator(".event")).to_contain_text("a red wall")


def test_several_events_are_judged_at_once(moderated: Running, open_page: Open) -> None:
    page = open_page(f"{moderated.server.http.url}/events")
    expect(page.locator(".queue li")).to_have_count(4)
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator(".state")).to_contain_text("2 marked")
    page.keyboard.press("d")
    expect(page.locator(".queue li")).to_have_count(2)
    expect(page.locator(".notice")).to_contain_text("Dismissed 2 events.")


def test_an_event_has_an_address_and_its_video_opens_at_it(moderated: Running, open_page: Open) -> None:
    page = open_page(f"{moderated.server.http.url}/events", expected="404")  # this server may not read its files
    expect(page.locator(".queue li")).to_have_count(4)
    page.keyboard.press("j")
    page.wait_for_url("**event=**")
    chosen = page.locator(".event p.line").first.inner_text()
    page.reload()
    expect(page.locator(".event p.line").first).to_have_text(chosen, use_inner_text=True)
    page.keyboard.press("Enter")
    page.wait_for_url("**/video/**")
    expect(page.locator(".timeline ol li").filter(has_text="Event ")).not_to_have_count(0)


def test_policies_filter_the_queue(moderated: Running, open_page: Open) -> None:
    page = open_page(f"{moderated.server.http.url}/events")
    page.locator(".policies").get_by_role("link", name="Paris").click()
    expect(page.locator(".queue li")).to_have_count(2)
    expect(page.locator(".queue li").first).to_contain_text("Paris")
