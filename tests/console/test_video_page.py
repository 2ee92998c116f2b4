"""The page of a video in a browser: player, transcript, timeline, selection, storyboard."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from support.browser import until
from support.running import Running

pytestmark = pytest.mark.browser
Open = Callable[..., Page]


def first_answer(page: Page, address: str, question: str, name: str = "paris.mp4") -> str:
    page.goto(f"{address}/?q={question}")
    link = page.locator(".card").filter(has_text=name).first.locator("a.open")
    expect(link).to_be_visible()
    return str(link.get_attribute("href"))


def seconds_of(page: Page) -> float:
    return float(page.evaluate("document.querySelector('video').currentTime"))


def test_a_link_plays_at_its_moment_and_the_transcript_follows(site: str, open_page: Open) -> None:
    page = open_page(site)
    page.goto(site + first_answer(page, site, "red"))
    until(page, "document.querySelector('video')?.readyState >= 2")
    assert 9.5 <= seconds_of(page) <= 10.5
    expect(page.locator(".utterance[aria-current]")).to_contain_text("0:03")
    page.locator(".utterance .at").nth(1).click()
    until(page, "Math.abs(document.querySelector('video').currentTime - 20) < 1")
    expect(page.locator(".utterance[aria-current]")).to_contain_text("0:20")


def test_the_timeline_shows_the_curve_and_the_moments_of_the_question(site: str, open_page: Open) -> None:
    page = open_page(site)
    page.goto(site + first_answer(page, site, "red"))
    expect(page.locator(".timeline ol li").filter(has_text="Moment 0:09\u20130:18: MATCH")).to_have_count(1)
    box = page.locator(".timeline canvas").bounding_box()
    assert box is not None
    assert box["height"] > 50  # a strip and a lane at least
    page.mouse.click(box["x"] + 64 + (box["width"] - 64) * 0.75, box["y"] + 10)
    until(page, "Math.abs(document.querySelector('video').currentTime - 21) < 1.5")


def test_a_selection_has_an_address_plays_in_a_loop_and_leads_on(site: str, open_page: Open) -> None:
    page = open_page(site)
    page.goto(site + first_answer(page, site, "red"))
    expect(page.locator(".selection strong")).to_have_text("0:09\u20130:18")
    box = page.locator(".timeline canvas").bounding_box()
    assert box is not None
    width = box["width"] - 64
    page.mouse.move(box["x"] + 64 + width * 0.5, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 64 + width * 0.6, box["y"] + 10, steps=4)
    page.mouse.up()
    expect(page.locator(".selection strong")).to_have_text("0:14\u20130:17")
    assert "t=14" in page.url
    page.get_by_role("button", name="Play loop").click()
    until(page, "!document.querySelector('video').paused")
    page.get_by_role("link", name="More like this").click()
    expect(page.locator(".chip")).to_contain_text("like ")


def test_a_clip_is_downloaded(site: str, open_page: Open, tmp_path: Path) -> None:
    page = open_page(site)
    page.goto(site + first_answer(page, site, "red"))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download clip").click()
    download.value.save_as(tmp_path / "clip.mp4")
    import av

    with av.open(str(tmp_path / "clip.mp4")) as clip:
        assert clip.duration is not None
        assert 7.5 <= clip.duration / 1e6 <= 9


def test_a_video_whose_file_is_gone_shows_its_stored_pictures(serving: Running, open_page: Open, films: Path) -> None:
    address = serving.server.http.url
    page = open_page(address, expected="404")
    link = first_answer(page, address, "green", "london.mp4")
    hidden = films / "london.mp4"
    hidden.rename(films / "away")
    try:
        page.goto(address + link)
        expect(page.get_by_text("these are its stored pictures")).to_be_visible()
        until(page, "document.querySelector('.stored img').naturalWidth > 0")
        page.keyboard.press("ArrowRight")
        expect(page.locator(".controls .label").first).to_have_text("0:01")
    finally:
        (films / "away").rename(hidden)


def test_a_video_that_is_not_there_is_said(site: str, open_page: Open) -> None:
    page = open_page(f"{site}/video/nothing", expected="404")
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("Request ")
