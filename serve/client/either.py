"""A library here or on a server, asked the same way."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from serve.errors import FrameNotFound
from serve.settings import Settings
from serve.values import Answer, Query, Video, VideoStatus

if TYPE_CHECKING:
    from serve.search.library import Library


class Asked(Protocol):
    """What answers: `Embedded`, or serve.client.client.Client. An empty collection is the one that has the video."""

    def search(self, query: Query) -> Answer: ...

    def moments(self, query: Query) -> Answer: ...

    def videos(self) -> Iterable[Video | VideoStatus]: ...

    def video(self, video_id: str, collection: str = "") -> Video | VideoStatus: ...

    def frame(self, video_id: str, at_seconds: float, collection: str = "") -> tuple[float, bytes]: ...


class Embedded:
    """A library in this process, asked as a server is."""

    def __init__(self, library: "Library") -> None:
        self.library = library

    def search(self, query: Query) -> Answer:
        return self.library.search(query)

    def moments(self, query: Query) -> Answer:
        return self.library.moments(query)

    def videos(self) -> list[Video]:
        return self.library.videos()

    def video(self, video_id: str, collection: str = "") -> Video:
        return self.library.catalog.video(video_id, collection or None)

    def frame(self, video_id: str, at_seconds: float, collection: str = "") -> tuple[float, bytes]:
        found = self.library.thumbnail(self.video(video_id, collection), at_seconds)
        if found is None:
            raise FrameNotFound(video_id)
        return found


@contextlib.contextmanager
def reached(settings: Settings, directory: Path, server: str | None) -> Iterator[Asked]:
    """Open the library in `directory`, or reach the one on a server.

    Raises:
        DataDirectoryMissing: If nothing was indexed there.
        SettingsError: If `server` is no address, or may not be reached so.
    """
    if server is not None:
        from serve.client.client import Client

        with Client(server, settings.client) as client:
            yield client
        return
    from serve.search.library import Library

    with Library.open(directory, settings) as library:
        yield Embedded(library)
