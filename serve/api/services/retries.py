"""request_key(): identifies a repeated request by the id that its caller gave it."""

import hashlib
from typing import Protocol

from google.protobuf.message import Message

from serve.api.tokens import Principal
from serve.indexing.job import RequestKey


class HasRequestId(Protocol):
    """What carries the id of a request."""

    @property
    def request_id(self) -> str: ...


def request_key(principal: Principal, method: str, placement: HasRequestId, request: Message) -> RequestKey | None:
    """Return the key that identifies a repeated request; None if the caller gave no request id."""
    if not placement.request_id:
        return None
    digest = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
    return RequestKey(principal=principal.name, request_id=placement.request_id, method=method, digest=digest)
