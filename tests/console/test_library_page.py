"""The library page in a browser: states, uploads, deletion with undo, long libraries."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from serve.client.client import Client
from support.fakes import write_scenes
from support.running import Running

pytestmark = pytest.mark.browser
Open = Callable[..., Page]


def test_an_uploaded_video_is_listed_and_found(serving: Running, open_page: Open, tmp_path: Path) -> None:
    address = serving.server.http.url
    page = open_page(f"{address}/library")
    expect(page.locator(".row")).to_have_count(3)
    video = write_scenes(tmp_path / "tokyo.mp4", [("yellow", 12)], salt=7)
    page.locator(".head input[type=file]").set_input_files(video)
    expect(page.locator(".row").filter(has_text="tokyo.mp4")).to_contain_text(re.compile("12 s(now|.* ago)"))
    page.goto(f"{address}/?q=yellow")
    expect(page.locator(".card.match").filter(has_text="tokyo.mp4").first).to_be_visible()


def test_an_upload_that_is_no_video_says_so(serving: Running, open_page: Open, tmp_path: Path) -> None:
    page = open_page(f"{serving.server.http.url}/library")
    (tmp_path / "notes.mp4").write_bytes(b"these are no pictures" * 100)
    page.locator(".head input[type=file]").set_input_files(tmp_path / "notes.mp4")
    expect(page.locator(".row").filter(has_text="notes.mp4").locator(".failed")).to_contain_text("failed: ")


def test_a_deletion_can_be_undone_and_else_happens(serving: Running, open_page: Open) -> None:
    page = open_page(f"{serving.server.http.url}/library")
    row = page.locator(".row").filter(has_text="london.mp4")
    row.get_by_role("button").click()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".row.going")).to_have_count(0)
    row.get_by_role("button").click()
    expect(row).to_have_count(0)
    expect(page.locator(".row")).to_have_count(2)
    with Client(serving.address) as client:
        assert not any(video.uri.endswith("london.mp4") for video in client.videos())


def test_of_ten_thousand_videos_only_some_rows_are_in_the_page(serving: Running, open_page: Open) -> None:
    page = open_page(serving.server.http.url)
    rows = [
        {"videoId": f"v{n}", "collection": "default", "uri": f"file:///{n:05}.mp4", "state": "STATE_READY"}
        for n in range(10_000)
    ]

    def list_videos(route: object) -> None:
        request = route.request.post_data_json  # type: ignore[attr-defined]
        start = int(request.get("pageToken") or 0)
        end = start + request["pageSize"]
        token = str(end) if end < len(rows) else ""
        route.fulfill(json={"videos": rows[start:end], "nextPageToken": token})  # type: ignore[attr-defined]

    page.route("**/kinodex.v1.LibraryService/ListVideos", list_videos)
    page.goto(f"{serving.server.http.url}/library")
    expect(page.locator(".row").first).to_contain_text("00000.mp4")
    for _ in range(40):
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        if page.locator(".state").inner_text().startswith("10,000 videos ·"):
            break
        page.wait_for_timeout(100)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    expect(page.locator(".row").filter(has_text="09999.mp4")).to_be_visible()
    assert page.locator(".row").count() < 60
