"""Replies of pages that are no calls of the API: errors as JSON, with the codes and HTTP statuses that Connect has."""

import json
from typing import Any

from google.rpc import error_details_pb2
from starlette.responses import Response

from serve.console.calls import CallFailed, connect_code

HTTP_STATUS = {  # of Connect's codes; the others are 500
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


def failure_reply(failed: CallFailed) -> Response:
    """Return the reply that reports the error of a call."""
    info = error_details_pb2.ErrorInfo()
    for detail in failed.status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
    return error_reply(connect_code(failed.status.code).value, failed.status.message, info.reason)


def error_reply(code: str, message: str, reason: str = "REQUEST_INVALID") -> Response:
    """Return a reply with an error: Connect's code, words for people, and a reason for programs."""
    content: dict[str, Any] = {"code": code, "message": message, "reason": reason}
    headers = {"cache-control": "no-store"}
    return Response(json.dumps(content), HTTP_STATUS.get(code, 500), headers, "application/json")
