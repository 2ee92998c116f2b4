"""The embedded library: one data directory, opened for reading, that answers questions in this process."""

from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from encoders.errors import NoVisualEncoder
from encoders.values import Utterance
from ingest.errors import DecodeError
from ingest.sandbox import DecodePool
from ingest.source import open_source
from ingest.values import Frame
from serve.catalog import Catalog
from serve.encoders import Encoders, decode_config, load_encoders
from serve.engine import Engine
from serve.errors import DataDirectoryMissing, EncoderSpaceMismatch
from serve.settings import Settings
from serve.values import Answer, Query, Video


class Library:
    """What was indexed into a data directory. Encoders are loaded with the first question, not before."""

    def __init__(self, directory: Path, settings: Settings, catalog: Catalog) -> None:
        self.directory, self.settings, self.catalog = directory, settings, catalog

    @classmethod
    def open(cls, directory: Path, settings: Settings) -> Self:
        """Open a data directory for reading, also while another process indexes into it.

        Raises:
            DataDirectoryMissing: If nothing was indexed there.
            DataDirectoryInvalid: If its catalog is damaged or newer than this program.
        """
        return cls(directory, settings, Catalog.open_reader(directory))

    def close(self) -> None:
        """Let go of the catalog."""
        self.catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @cached_property
    def encoders(self) -> Encoders:
        """The encoders the rows were made with.

        Raises:
            EncoderSpaceMismatch: If the settings name others.
        """
        stored = self.catalog.space()
        if stored is None:
            raise DataDirectoryMissing(str(self.directory))
        encoders = load_encoders(self.settings, stored, speech=(stored.speech, stored.speech_fingerprint))
        if stored.fingerprint != encoders.space.fingerprint:
            raise EncoderSpaceMismatch(str(self.directory), str(stored), str(encoders.space))
        return encoders

    @cached_property
    def engine(self) -> Engine:
        """The query engine over this directory."""
        return Engine(self.catalog, self.encoders, self.directory, self.settings)

    def search(self, query: Query) -> Answer:
        """Return the videos that answer, best first."""
        return self.engine.search(query)

    def moments(self, query: Query) -> Answer:
        """Return the moments that answer, best first."""
        return self.engine.moments(query)

    def load_image(self, path: Path) -> NDArray[np.uint8]:
        """Decode a picture, in a child process, to the visual encoder's input: uint8 (H, W, 3) RGB.

        Raises:
            IngestError: If it cannot be read or is no picture.
            NoVisualEncoder: If nothing here can see.
        """
        if self.encoders.visual is None:
            raise NoVisualEncoder(
                f"an image cannot be searched for: {self.directory} was indexed without a visual encoder"
            )
        config = decode_config(self.settings, self.encoders)
        with (
            open_source(str(path), self.settings.source, spool=self.directory / "spool") as source,
            DecodePool(config, workers=1) as pool,
        ):
            for decoded in pool.decode(source.file, uri=source.uri):
                if isinstance(decoded, Frame):
                    return decoded.pixels
        raise DecodeError(str(path), "no picture inside", "give a JPEG, PNG or WebP file")

    def videos(self, collection: str | None = None) -> list[Video]:
        """Return what is indexed, by uri."""
        return self.catalog.videos(collection=collection)

    def video(self, video_id: str) -> Video:
        """Return one video by its id or an unambiguous start of it; VideoNotFound."""
        return self.catalog.video(video_id)

    def transcript(self, video: Video) -> list[Utterance]:
        """Return what is said in a video, in order."""
        return self.catalog.utterances(video.row)

    def thumbnail(self, video: Video, at_seconds: float) -> tuple[float, bytes] | None:
        """Return the picture nearest to a time: its own time and a JPEG; None where there is none."""
        return self.catalog.thumbnail(video.row, at_seconds)
