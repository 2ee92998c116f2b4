"""One interface to a library in this process or on a server, for the commands `ask`, `search` and `eval`."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from serve.errors import FrameNotFound
from serve.settings import Settings
from serve.values import Answer, Query, Video, VideoStatus

if TYPE_CHECKING:
    from serve.search.library import Library


class AnyLibrary(Protocol):
    """A `LocalLibrary` or a serve.client.client.Client.

    An empty collection means: look in every collection for the video.
    """

    def search(self, query: Query) -> Answer: ...

    def moments(self, query: Query) -> Answer: ...

    def videos(self) -> Iterable[Video | VideoStatus]: ...

    def video(self, video_id: str, collection: str = "") -> Video | VideoStatus: ...

    def frame(self, video_id: str, at_seconds: float, collection: str = "") -> tuple[float, bytes]: ...


class LocalLibrary:
    """A library in this process, with the methods of the client."""

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
        frame = self.library.thumbnail(self.video(video_id, collection), at_seconds)
        if frame is None:
            raise FrameNotFound(video_id)
        return frame


@contextlib.contextmanager
def open_library(settings: Settings, directory: Path, server: str | None) -> Iterator[AnyLibrary]:
    """Connect to `server`, or open the library in `directory` if `server` is None.

    Raises:
        DataDirectoryMissing: If nothing was indexed in the directory.
        SettingsError: If `server` is not an address, or the settings forbid to connect to it this way.
    """
    if server is not None:
        from serve.client.client import Client

        with Client(server, settings.client) as client:
            yield client
        return
    from serve.search.library import Library

    with Library.open(directory, settings) as library:
        yield LocalLibrary(library)
