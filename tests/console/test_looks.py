"""Every page for screen readers, in both colours, and at the width of a phone."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
Open = Callable[..., Page]

PAGES = ("/", "/?q=red", "/?q=red&by=video", "VIDEO", "/library", "/live", "/events", "/about")


def address_of(page: Page, address: str, path: str) -> str:
    if path != "VIDEO":
        return address + path
    page.goto(f"{address}/?q=red")
    link = page.locator(".card a.open").first
    expect(link).to_be_visible()
    return address + str(link.get_attribute("href"))


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing(site: str, open_page: Open, axe: str, path: str, colours: str) -> None:
    page = open_page(site, color_scheme=colours, reduced_motion="reduce")
    page.goto(address_of(page, site, path))
    page.wait_for_load_state("networkidle") if path not in ("/live", "/events") else page.wait_for_timeout(1000)
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    problems = [
        f"{violation['id']} ({violation['impact']}): {node['html'][:120]} {node.get('failureSummary', '')[:200]}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
    assert problems == []


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_wider_than_a_phone(site: str, open_page: Open, path: str) -> None:
    page = open_page(site, viewport={"width": 390, "height": 844}, has_touch=True)
    page.goto(address_of(page, site, path))
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_chosen_colours_stay(site: str, open_page: Open) -> None:
    page = open_page(site, color_scheme="light")
    page.get_by_role("button", name="Dark colours").click()
    page.goto(f"{site}/library")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"


def test_the_keys_are_listed_and_their_dialog_closes(site: str, open_page: Open) -> None:
    page = open_page(f"{site}/?q=red")
    expect(page.locator(".card").first).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("more like this")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
