"""Pictures over HTTP: /frames/VIDEO?t=SECONDS is the stored JPEG that is nearest to a time."""

import hashlib
import json
from typing import Any

from google.rpc import error_details_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kinodex.v1 import library_service_pb2
from serve.codec.fields import duration_message
from serve.console.calls import EXCHANGE, CallFailed, Calls, connect_code

HTTP_STATUS = {
    "invalid_argument": 400,
    "failed_precondition": 400,
    "out_of_range": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "already_exists": 409,
    "aborted": 409,
    "resource_exhausted": 429,
    "canceled": 499,
    "unimplemented": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
}


class PictureRoutes:
    """The pages of pictures."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    def routes(self) -> list[Route]:
        return [Route("/frames/{video_id:path}", self.frame, methods=["GET"])]

    async def frame(self, request: Request) -> Response:
        try:
            seconds = float(request.query_params.get("t", "0"))
            offset = duration_message(seconds)
        except (ValueError, OverflowError):
            return refusal_of("invalid_argument", "t must be a number of seconds", "REQUEST_INVALID")
        message = library_service_pb2.GetFrameRequest(
            video_id=request.path_params["video_id"],
            collection=request.query_params.get("collection", ""),
            offset=offset,
        )
        try:
            answer = await self.calls.call("kinodex.v1.LibraryService/GetFrame", message, EXCHANGE.get())
        except CallFailed as failed:
            return refusal(failed)
        headers = {"x-frame-offset": f"{answer.offset.ToNanoseconds() / 1e9:.6f}"}
        return picture(request, answer.jpeg, headers)


def picture(request: Request, jpeg: bytes, headers: dict[str, str]) -> Response:
    """Return a JPEG, or 304 if the caller has it."""
    tag = f'"{hashlib.sha256(jpeg).hexdigest()[:16]}"'
    headers = {"etag": tag, "cache-control": "private, max-age=60", "vary": "authorization", **headers}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(jpeg, media_type="image/jpeg", headers=headers)


def refusal(failed: CallFailed) -> Response:
    """Return the error of a call as JSON, with the code and the words that Connect has for it."""
    info = error_details_pb2.ErrorInfo()
    for detail in failed.status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
    return refusal_of(connect_code(failed.status.code).value, failed.status.message, info.reason)


def refusal_of(code: str, message: str, reason: str) -> Response:
    content: dict[str, Any] = {"code": code, "message": message, "reason": reason}
    return Response(json.dumps(content), HTTP_STATUS.get(code, 500), media_type="application/json")
