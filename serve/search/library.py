"""Library: a data directory opened for reading, which answers questions in this process; public as kinodex.Library."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from encoders.errors import NoVisualEncoder
from encoders.values import Utterance
from ingest.errors import DecodeError
from ingest.sandbox.pool import DecodePool
from ingest.values import Frame
from serve.catalog.catalog import Catalog
from serve.catalog.chapters import read_outline
from serve.catalog.speech.speakers import read_speakers
from serve.catalog.speech.subtitles import subtitles_of
from serve.encoder_set import Encoders, decode_config, load_encoders
from serve.errors import CollectionNotFound, DataDirectoryInvalid, DataDirectoryMissing, EncoderSpaceMismatch
from serve.search.engine import Engine
from serve.search.intent import read_intent
from serve.settings import Settings, load_settings
from serve.values import Answer, Query, Speaker, Video
from temporal.values import Outline

# Processor time to decode a question's picture. Most take milliseconds; 200 megapixels of HEIC take 5 s, or 17 s if
# they are noise.
PICTURE_CPU_SECONDS = 20.0
PICTURE_SECONDS = 120.0  # longest decoding of a question's picture; a loaded machine may leave it a sixth of a core
PICTURE_WORKERS = 2  # processes that decode the pictures of questions


class Library:
    """The videos indexed into a data directory. The encoders are loaded with the first question, not before."""

    def __init__(self, directory: Path, settings: Settings, catalog: Catalog) -> None:
        self.directory, self.settings, self.catalog = directory, settings, catalog

    @classmethod
    def open(cls, directory: Path | str, settings: Settings | None = None) -> Self:
        """Open a data directory for reading, also while another process indexes into it.

        Args:
            directory: The folder that `kinodex index` wrote.
            settings: None: those of its kinodex.toml and of the environment.
        Raises:
            DataDirectoryMissing: If nothing was indexed there.
            DataDirectoryInvalid: If the catalog is damaged, or newer than this program.
        """
        directory = Path(directory)
        return cls(directory, settings or load_settings(directory), Catalog.open_reader(directory))

    def close(self) -> None:
        """Close the catalog and end the child processes."""
        if "_decode_pool" in vars(self):
            self._decode_pool.close()
        if "engine" in vars(self):
            self.engine.close()
        self.catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @cached_property
    def encoders(self) -> Encoders:
        """The encoders with which the videos were indexed.

        Raises:
            DataDirectoryMissing: If nothing was indexed.
            DataDirectoryInvalid: If a reindexing of an outdated catalog has not ended (serve.catalog.outdated).
            EncoderSpaceMismatch: If the settings name other encoders.
        """
        stored = self.catalog.space()
        if stored is None:
            if self.catalog.videos():
                raise DataDirectoryInvalid(
                    str(self.directory), "its videos are not encoded again yet: run kinodex reindex"
                )
            raise DataDirectoryMissing(str(self.directory))
        encoders = load_encoders(self.settings, stored, speech=(stored.speech, stored.speech_fingerprint))
        if stored.fingerprint != encoders.space.fingerprint:
            raise EncoderSpaceMismatch(str(self.directory), str(stored), str(encoders.space))
        return encoders

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.catalog, self.encoders, self.directory, self.settings)

    def search(self, query: Query) -> Answer:
        """Return the videos that answer, best first.

        Raises:
            CollectionNotFound: If a collection of the filter does not exist.
            IngestError: If the query's picture cannot be decoded.
            NoVisualEncoder: If the query has a picture, and the library no visual encoder.
            VideoNotFound: If the video of the query's example is not there.
        """
        self._check_collections(query)
        return self.engine.search(query, self.pixels(query))

    def moments(self, query: Query) -> Answer:
        """Return the moments that answer, best first; raises as search()."""
        self._check_collections(query)
        return self.engine.moments(query, self.pixels(query))

    def similarities(self, text: str, video: Video) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return the time in seconds, (F,), and the de-biased similarity to a text, (F,), of each frame of a video.

        Raises:
            NoVisualEncoder: If the library has no visual encoder.
        """
        visual = self.engine.visual
        if visual is None:
            raise NoVisualEncoder(f"{self.directory} was indexed without a visual encoder")
        with self.engine.snapshot():
            scored = visual.score_frames(visual.encode_text(read_intent(text).text), video, None)
        if scored is None:
            return np.empty(0), np.empty(0, np.float32)
        return scored.frames.pts_seconds, scored.values

    def _check_collections(self, query: Query) -> None:
        """Raise CollectionNotFound for an unknown collection: an empty answer would hide a typing error."""
        for collection in query.filter.collections or ():
            if not self.catalog.has_collection(collection):
                raise CollectionNotFound(collection)

    def pixels(self, query: Query, check: Callable[[], None] = lambda: None) -> NDArray[np.uint8] | None:
        """Decode a query's picture in a child process to uint8 (H, W, 3) RGB at the visual encoder's input size.

        `check` is called some times a second; what it raises stops the work. Returns None for a query without a
        picture; raises as search().
        """
        if not query.image:
            return None
        if self.encoders.visual is None:
            raise NoVisualEncoder(
                f"an image cannot be searched for: {self.directory} was indexed without a visual encoder"
            )
        with tempfile.TemporaryFile() as file:
            file.write(query.image)
            file.flush()
            pixels = None
            # A photo is decoded to its end, so that its child takes the next question; of an animation, the first
            # picture is enough.
            for decoded in self._decode_pool.decode(
                file, uri=query.image_name, max_cpu_seconds=PICTURE_CPU_SECONDS, check=check
            ):
                if isinstance(decoded, Frame) and pixels is not None:
                    break
                pixels = decoded.pixels if isinstance(decoded, Frame) else pixels
        if pixels is not None:
            return pixels
        raise DecodeError(query.image_name, "no picture inside", "give a JPEG, PNG, WebP, HEIC or AVIF file")

    @cached_property
    def _decode_pool(self) -> DecodePool:
        """The child processes that decode the pictures of questions."""
        config = replace(decode_config(self.settings, self.encoders), max_wall_seconds=PICTURE_SECONDS)
        return DecodePool(config, workers=PICTURE_WORKERS)

    def videos(self, collection: str | None = None) -> list[Video]:
        """Return the indexed videos by URI."""
        return self.catalog.videos(collection=collection)

    def video(self, video_id: str) -> Video:
        """Return the video with this id, or whose id alone begins so; raise VideoNotFound."""
        return self.catalog.video(video_id)

    def transcript(self, video: Video) -> list[Utterance]:
        return self.catalog.utterances(video.row)

    def speakers(self, video: Video) -> list[Speaker]:
        """Return the speakers of a video, by number; none: they are not told apart."""
        return read_speakers(self.catalog, video.row)

    def subtitles(self, video: Video) -> str:
        """Return the name of the subtitle file, track or import whose words a video has; empty: none."""
        return subtitles_of(self.catalog, video.row).name

    def outline(self, video: Video, highlight_count: int = 0) -> Outline:
        """Return the chapters of a video, and as many of its most telling moments."""
        return read_outline(self.catalog, video, highlight_count)

    def thumbnail(self, video: Video, at_seconds: float) -> tuple[float, bytes] | None:
        """Return the time and the JPEG of the thumbnail nearest to a time; None for a video without frames."""
        return self.catalog.thumbnail(video.row, at_seconds)
