"""Pictures over HTTP: /frames/VIDEO?t=SECONDS is one stored picture, /strips/VIDEO several of them side by side."""

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kinodex.v1 import library_service_pb2, moment_pb2
from serve.api.services.library import LibraryService
from serve.codec.fields import duration_message, duration_value
from serve.console.calls import EXCHANGE, CallFailed, Calls, Exchange
from serve.console.links import Links
from serve.console.replies import error_reply, failure_reply

TILE_HEIGHT = 90  # pixels of a strip's pictures: half of the stored ones
MAX_TILE_WIDTH = 240  # of pictures wider than cinema: they are cut off
MAX_TILE_COUNT = 100  # of a strip, whose JPEG is at most 24,000 pixels wide
TILE_COUNT = 20  # of a strip whose request does not say
MAX_SOURCE_PIXELS = 4 << 20  # of a stored picture; ours have a tenth of it
JPEG_QUALITY = 75
CACHE_SECONDS = 60  # a page asks for the same pictures again and again; a new version of a video has other ones
STRIP = "kinodex.http/GetStrip"


class PictureRoutes:
    """The pages of pictures."""

    def __init__(self, calls: Calls, library: LibraryService, links: Links) -> None:
        self.calls, self.library, self.links = calls, library, links

    def routes(self) -> list[Route]:
        return [
            Route("/frames/{video_id:path}", self.frame, methods=["GET"]),
            Route("/strips/{video_id:path}", self.strip, methods=["GET"]),
        ]

    async def frame(self, request: Request) -> Response:
        """Return the stored JPEG that is nearest to a time."""
        try:
            message = library_service_pb2.GetFrameRequest(
                video_id=request.path_params["video_id"],
                collection=request.query_params.get("collection", ""),
                offset=duration_message(number(request, "t", 0.0)),
            )
            exchange = linked_exchange(request, self.links)
            answer = await self.calls.call("kinodex.v1.LibraryService/GetFrame", message, exchange)
        except ValueError as error:
            return error_reply("invalid_argument", str(error))
        except CallFailed as failed:
            return failure_reply(failed)
        headers = {"x-frame-offset": f"{duration_value(answer.offset):.6f}"}
        return picture_reply(request, answer.jpeg, headers)

    async def strip(self, request: Request) -> Response:
        """Return one JPEG of `count` pictures side by side, shown at even steps from `start`."""
        try:
            count = int(number(request, "count", TILE_COUNT))
            if not 1 <= count <= MAX_TILE_COUNT:
                raise ValueError(f"count must be 1 to {MAX_TILE_COUNT}, got {count}")
            message = library_service_pb2.GetStoryboardRequest(
                video_id=request.path_params["video_id"],
                collection=request.query_params.get("collection", ""),
                picture_count=count,
            )
            if "end" in request.query_params:
                message.span.CopyFrom(
                    moment_pb2.TimeSpan(
                        start_offset=duration_message(number(request, "start", 0.0)),
                        end_offset=duration_message(number(request, "end", 0.0)),
                    )
                )
            jpeg = await self.calls.run(STRIP, self._draw_strip, message, linked_exchange(request, self.links))
        except ValueError as error:
            return error_reply("invalid_argument", str(error))
        except CallFailed as failed:
            return failure_reply(failed)
        return picture_reply(request, jpeg, {})

    async def _draw_strip(self, request: library_service_pb2.GetStoryboardRequest, context: Any) -> bytes:
        board = await self.library.GetStoryboard(request, context)
        start, end = duration_value(board.span.start_offset), duration_value(board.span.end_offset)
        video = await self.library.find_video(request.video_id, request.collection)
        times = [start + (end - start) * n / request.picture_count for n in range(request.picture_count)]

        def work(check: Callable[[], None]) -> bytes:
            pictures: dict[float, bytes] = {}
            shown: list[float | None] = []
            for at in times:
                check()
                frame = self.library.catalog.thumbnail(video.row, at)
                shown.append(frame[0] if frame else None)
                pictures.update([frame] if frame else [])
            return join_pictures([pictures[at] if at is not None else b"" for at in shown])

        return await self.library.workers.run(work)


def number(request: Request, name: str, default: float) -> float:
    """Return a number of the query.

    Raises:
        ValueError: If it is no finite number of a usual size.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        raise ValueError(f"{name} must be a number, got {text[:40]!r}")
    return value


def linked_exchange(request: Request, links: Links) -> Exchange:
    """Return the present exchange, with the token of a signed link if the request has one."""
    exchange, link = EXCHANGE.get(), request.query_params.get("link")
    exchange.linked = None if link is None else links.token_of(request.scope["path"], link)
    return exchange


def picture_reply(request: Request, jpeg: bytes, headers: dict[str, str]) -> Response:
    """Return a JPEG, or 304 if the caller has it."""
    tag = f'"{hashlib.sha256(jpeg).hexdigest()[:16]}"'
    cached = {"etag": tag, "cache-control": f"private, max-age={CACHE_SECONDS}", "vary": "authorization"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=cached | headers)
    return Response(jpeg, media_type="image/jpeg", headers=cached | headers)


def join_pictures(jpegs: Sequence[bytes]) -> bytes:
    """Return one JPEG of some pictures in a row, each as wide as the first that can be read. A damaged one is black."""
    tiles: dict[bytes, Image.Image | None] = {}
    for jpeg in jpegs:
        if jpeg not in tiles:
            tiles[jpeg] = read_tile(jpeg)
    width = next((tile.width for tile in tiles.values() if tile), round(TILE_HEIGHT * 16 / 9))
    strip = Image.new("RGB", (width * len(jpegs), TILE_HEIGHT))
    for n, jpeg in enumerate(jpegs):
        tile = tiles[jpeg]
        if tile is not None:
            strip.paste(tile.crop((0, 0, width, TILE_HEIGHT)), (n * width, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def read_tile(jpeg: bytes) -> Image.Image | None:
    """Return a picture at a strip's height; None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
            if picture.width * picture.height > MAX_SOURCE_PIXELS:
                return None
            width = min(MAX_TILE_WIDTH, max(1, round(picture.width * TILE_HEIGHT / picture.height)))
            picture.draft("RGB", (width, TILE_HEIGHT))
            return picture.convert("RGB").resize((width, TILE_HEIGHT))
    except (OSError, ValueError, SyntaxError):
        return None
