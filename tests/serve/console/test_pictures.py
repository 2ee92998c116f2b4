"""Pictures over HTTP, and the links that open them without a token."""

import io
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from serve.api.pages import KEY_BYTES, PageSigner
from serve.api.tokens import create_token, revoke_token
from serve.console.links import LINK_SECONDS, Links
from serve.console.pictures import TILE_HEIGHT, join_pictures
from support.fakes import use_fakes
from support.running import running
from support.waiting import HANG_SECONDS


def only_video(http: httpx2.Client, **headers: str) -> str:
    answer = http.post("/kinodex.v1.LibraryService/ListVideos", json={}, headers=headers)
    [video] = answer.json()["videos"]
    return str(video["videoId"])


def colour_at(picture: Image.Image, x: int) -> str:
    red, _, blue = picture.getpixel((x, TILE_HEIGHT // 2))  # type: ignore[misc]
    return "red" if red > blue else "blue"


@pytest.mark.slow
def test_a_frame_is_a_jpeg_that_is_sent_once(http: httpx2.Client) -> None:
    path = f"/frames/{only_video(http)}?t=12"
    answer = http.get(path)
    assert (answer.status_code, answer.content[:3]) == (200, b"\xff\xd8\xff")
    again = http.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.slow
def test_a_strip_shows_the_video_at_even_steps(http: httpx2.Client) -> None:
    answer = http.get(f"/strips/{only_video(http)}", params={"start": 6, "end": 14, "count": 8})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    strip = Image.open(io.BytesIO(answer.content))
    width = strip.width // 8
    assert strip.size == (8 * width, TILE_HEIGHT)
    assert [colour_at(strip, n * width + width // 2) for n in range(8)] == ["blue"] * 4 + ["red"] * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/frames/none", 404, "VIDEO_NOT_FOUND"),
        ("/frames/", 400, "REQUEST_INVALID"),
        ("/frames/none?t=nan", 400, "REQUEST_INVALID"),
        ("/frames/none?t=1e300", 400, "REQUEST_INVALID"),
        ("/frames/none?collection=no", 404, "COLLECTION_NOT_FOUND"),
        ("/strips/none", 404, "VIDEO_NOT_FOUND"),
        ("/strips/none?count=101", 400, "REQUEST_INVALID"),
        ("/strips/none?count=x", 400, "REQUEST_INVALID"),
        ("/strips/none?start=9&end=3", 400, "REQUEST_INVALID"),
        ("/frames/..%2F..%2Fetc%2Fpasswd", 404, "VIDEO_NOT_FOUND"),
        ("/frames/%00", 404, "VIDEO_NOT_FOUND"),
        ("/frames/%ff", 404, "VIDEO_NOT_FOUND"),
    ],
)
def test_what_is_not_there_is_said(http: httpx2.Client, path: str, status: int, reason: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


def test_a_damaged_picture_is_black_in_a_strip() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (320, 180), "red").save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    strip = Image.open(io.BytesIO(join_pictures([jpeg, jpeg[:200], b"", b"\x00" * 100])))
    assert strip.size == (4 * 160, 90)
    assert [strip.getpixel((80 + 160 * n, 45)) for n in (1, 2, 3)] == [(0, 0, 0)] * 3
    assert colour_at(strip, 80) == "red"


# ------------------------------------------------------------------ links
@pytest.fixture(scope="module")
def tokens(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server with two callers, of whom one may read another collection: its url, and their tokens by name."""
    folder = tmp_path_factory.mktemp("tokens") / "data"
    shutil.copytree(data, folder)
    given = {
        name: create_token(
            folder / "tokens.json", name, collections=collections, can_write=False, expire_time=None,
            now=datetime.now(UTC),
        )
        for name, collections in (("viewer", ["default"]), ("other", ["other"]), ("leaver", ["default"]))
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        with running(folder, http_listen="127.0.0.1:0") as server:
            yield {**given, "url": server.url, "file": str(folder / "tokens.json")}


def sign(http: httpx2.Client, token: str, *paths: str) -> list[str]:
    headers = {"authorization": f"Bearer {token}"}
    signed: list[str] = http.post("/links", json={"paths": paths}, headers=headers).json()["links"]
    return signed


@pytest.mark.slow
def test_a_signed_link_opens_its_path_and_nothing_else(tokens: dict[str, str]) -> None:
    with httpx2.Client(base_url=tokens["url"], timeout=HANG_SECONDS) as http:
        video_id = only_video(http, authorization=f"Bearer {tokens['viewer']}")
        path = f"/frames/{video_id}"
        assert http.get(path).status_code == 401
        [link] = sign(http, tokens["viewer"], f"{path}?t=3")
        assert tokens["viewer"].rpartition("_")[2] not in link
        assert http.get(link).content[:3] == b"\xff\xd8\xff"
        assert http.get(link.replace("t=3", "t=9")).status_code == 200
        for other in (
            link.replace("/frames/", "/strips/"),
            link.replace(video_id, "another"),
            link[:-1],
            f"{path}?link=",
            f"{path}?link={'x' * 10_000}",
        ):
            assert http.get(other).status_code == 401, other
        [foreign] = sign(http, tokens["other"], path)  # may be signed, but opens only what its signer may read
        assert http.get(foreign).status_code == 404
        assert http.post("/links", json={"paths": [path]}).status_code == 401
        assert http.post(f"/kinodex.v1.LibraryService/ListVideos?{link.partition('?')[2]}", json={}).status_code == 401


@pytest.mark.slow
def test_a_revoked_token_ends_its_links(tokens: dict[str, str]) -> None:
    with httpx2.Client(base_url=tokens["url"], timeout=HANG_SECONDS) as http:
        path = "/frames/" + only_video(http, authorization=f"Bearer {tokens['leaver']}")
        [link] = sign(http, tokens["leaver"], path)
        assert http.get(link).status_code == 200
        revoke_token(Path(tokens["file"]), "leaver")
        assert http.get(link).status_code == 401


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"paths": "x"}', b'{"paths": [1]}', b'{"paths": ["/"]}', b"[" * 100_000, b"\xff", b"9" * 300_000],
)
def test_links_to_nothing_are_not_signed(http: httpx2.Client, body: bytes) -> None:
    assert http.post("/links", content=body).status_code == 400


def test_a_link_expires() -> None:
    now = 1000.0
    links = Links(PageSigner(b"k" * KEY_BYTES), lambda: now)
    link = links.sign("/media/a%2Fb?collection=c", "12345678").partition("link=")[2]
    assert links.token_of("/media/a/b", link).token_id == "12345678"
    now += LINK_SECONDS
    assert links.token_of("/media/a/b", link).token_id == ""
