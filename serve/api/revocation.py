"""RunningCalls: ends the calls under way whose token was revoked, expired or changed since they began."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from serve.api.tokens import Credential, Principal, TokenStore
from serve.errors import PermissionDenied, Unauthenticated

CHECK_SECONDS = 1.0  # between two looks at the tokens: a revoked call ends at most this much later


@dataclass(slots=True, eq=False)
class _Running:
    credential: Credential
    principal: Principal
    expiry: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))
    reason: Exception | None = None  # set when the call is to end


class RunningCalls:
    """The calls under way at a server with tokens. Lives on the server's event loop."""

    def __init__(self, tokens: TokenStore) -> None:
        self.tokens = tokens
        self._running: set[_Running] = set()

    @contextlib.asynccontextmanager
    async def until_revoked(self, credential: Credential, principal: Principal) -> AsyncIterator[None]:
        """Run a call's work; interrupt it when its token no longer gives the rights that it began with.

        Raises:
            Unauthenticated: If its token was revoked, or has expired.
            PermissionDenied: If its token has other rights now.
        """
        running = _Running(credential, principal)
        self._running.add(running)
        try:
            async with running.expiry:
                yield
        except TimeoutError:
            if running.reason is None:  # a timeout of the work itself
                raise
            raise running.reason from None
        finally:
            self._running.discard(running)

    async def watch_tokens(self) -> None:
        """End revoked calls, again and again, until this is cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.end_revoked()

    def end_revoked(self) -> None:
        """End the calls whose tokens do not give the same rights any more."""
        now = asyncio.get_running_loop().time()
        reasons: dict[Credential, Principal | Exception] = {}
        for running in self._running:
            if running.credential not in reasons:
                try:
                    reasons[running.credential] = self.tokens.authenticate(running.credential)
                except Unauthenticated as error:
                    reasons[running.credential] = error
            found = reasons[running.credential]
            if running.reason is None and found != running.principal:
                running.reason = (
                    found if isinstance(found, Exception) else PermissionDenied("go on after its token was changed")
                )
                running.expiry.reschedule(now)
