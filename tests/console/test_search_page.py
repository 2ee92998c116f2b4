"""The search page in a browser: answers, filters, addresses, keys, pictures."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from support.browser import until

pytestmark = pytest.mark.browser
Open = Callable[..., Page]


def ask(page: Page, question: str) -> None:
    page.get_by_role("searchbox", name="Question").fill(question)
    page.keyboard.press("Enter")


def test_a_question_gives_answers_as_pictures_with_times_and_verdicts(site: str, open_page: Open) -> None:
    page = open_page(site)
    ask(page, "red")
    first = page.locator(".card").first
    expect(first).to_contain_text("MATCH")
    expect(first).to_contain_text("paris.mp4")
    expect(first.locator(".time")).to_have_text("0:09\u20130:18")
    until(page, "document.querySelector('.card img').naturalWidth > 0")  # the stored picture came
    assert "q=red" in page.url


def test_the_line_below_the_answers_that_fit(site: str, open_page: Open) -> None:
    page = open_page(f"{site}/?q=green")
    expect(page.locator(".divider")).to_have_text("probably not what you asked for")
    verdicts = page.locator(".card .verdict, .divider").all_inner_texts()
    line = verdicts.index("probably not what you asked for")
    assert all(text.startswith(("MATCH", "WEAK")) for text in verdicts[:line])
    assert all(text.startswith("NO MATCH") for text in verdicts[line + 1 :])


def test_what_matched_is_marked_and_why_is_said(site: str, open_page: Open) -> None:
    page = open_page(f"{site}/?q=paris&channel=said")
    expect(page.locator(".card mark").first).to_have_text(re.compile("paris", re.I))
    page.locator(".card .why summary").first.click()
    expect(page.locator(".card .why li").first).to_contain_text("Of answers this")
    assert page.get_by_text("is said at 0:0").first.is_visible()


def test_every_state_is_an_address_and_back_works(site: str, open_page: Open) -> None:
    page = open_page(f"{site}/?q=red")
    page.get_by_role("link", name="Videos", exact=True).click()
    expect(page.get_by_role("link", name="Videos", exact=True)).to_have_attribute("aria-current", "true")
    assert "by=video" in page.url
    page.get_by_role("link", name="MATCH only").click()
    expect(page.locator(".card.none")).to_have_count(0)
    page.go_back()
    page.go_back()
    expect(page.get_by_role("link", name="Moments", exact=True)).to_have_attribute("aria-current", "true")
    assert page.url.endswith("/?q=red")


def test_keys_go_from_the_question_to_the_playing_moment(site: str, open_page: Open) -> None:
    page = open_page(f"{site}/?q=red")
    expect(page.locator(".card").first).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Question")).to_be_focused()
    with page.expect_response("**/SearchMoments"):
        page.keyboard.press("Enter")
    expect(page.locator(".state")).to_contain_text("moments")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".card").first.locator("a.open")).to_be_focused()
    page.keyboard.press("Space")
    page.wait_for_url("**/video/**")
    until(page, "document.querySelector('video')?.currentTime > 10.2")  # it plays from 0:10


def test_an_example_by_a_click_and_by_a_picture(site: str, open_page: Open, tmp_path: Path) -> None:
    page = open_page(f"{site}/?q=red")
    page.locator(".card").first.hover()
    page.locator(".card a.more").first.click()
    expect(page.locator(".chip")).to_contain_text("like ")
    expect(page.locator(".card .name").first).not_to_have_text("london.mp4")
    from PIL import Image

    Image.new("RGB", (64, 48), (0, 255, 0)).save(tmp_path / "green.png")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "green.png")
    expect(page.locator(".chip")).to_contain_text("like this picture")
    expect(page.locator(".card .name").first).not_to_have_text("paris.mp4")  # which shows no green


def test_a_picture_under_the_pointer_shows_the_pictures_around_it(site: str, open_page: Open) -> None:
    page = open_page(f"{site}/?q=red")
    page.locator(".card .shot").first.hover()
    until(page, "document.querySelector('.card .tile').style.backgroundImage.startsWith('url')")
    expect(page.locator(".card").first.locator("canvas")).to_have_count(1)  # the curve of the pictures


def test_nothing_found_says_what_to_do(site: str, open_page: Open) -> None:
    page = open_page(f"{site}/?q=red&since=2031-01-01")
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    page.get_by_role("link", name="Ask without them").click()
    expect(page.locator(".card").first).to_be_visible()


def test_the_same_question_by_hand(site: str, open_page: Open) -> None:
    page = open_page(f"{site}/?q=a+%22red%22+one's")
    page.get_by_text("by hand").click()
    texts = page.locator(".hand pre").all_inner_texts()
    assert texts[0].startswith("kinodex moments 'a \"red\" one'\\''s'")
    assert "SearchService/SearchMoments" in texts[1]
    assert "Query(text=" in texts[2]
