"""Live streams cut into segments by hand, as a worker with the tests' exact encoders would cut them."""

from collections.abc import Mapping, Sequence

import numpy as np

from encoders.values import FrameEmbeddings, Utterance, Word
from ingest.values import MediaInfo
from serve.codec.records import SegmentRecord
from serve.values import EncoderSpace
from support.fakes import COLOURS, ColourEncoder, WordSumEncoder
from temporal.values import Segment, TimeSpan

WINDOW_SECONDS, STRIDE_SECONDS = 16, 8
MEDIA = MediaInfo(
    container="mpegts", duration_seconds=None, video_codec="h264", audio_codec="aac", width=64, height=48,
    rotation_degrees=0, frame_rate_fps=5.0,
)  # fmt: skip
SPACE = EncoderSpace(  # what pipeline.load_for_indexing makes of the fakes
    visual="colour", visual_fingerprint="c0104", speech="tone", speech_fingerprint="70e", sentence="words",
    sentence_fingerprint="3024d5", window="16s/8s mean",
)  # fmt: skip
FINGERPRINT = SPACE.fingerprint
LOOKS = {
    name: ColourEncoder().encode_frames(np.full((1, 2, 2, 3), np.array(rgb) * 255, np.uint8))[0]
    for name, rgb in COLOURS.items()
}


def utterance(text: str, start_seconds: float, epoch: int = 0) -> Utterance:
    words = text.split()
    each = 1.0 / len(words)
    return Utterance(
        epoch=epoch, start_seconds=start_seconds, end_seconds=start_seconds + 1.0, text=text, language="en",
        avg_logprob=0.0, no_speech_prob=0.0,
        words=tuple(
            Word(text=word, start_seconds=start_seconds + n * each, end_seconds=start_seconds + (n + 1) * each,
                 probability=1.0)
            for n, word in enumerate(words)
        ),
    )  # fmt: skip


def stream(
    video_id: str,
    colours: Sequence[str],
    said: Mapping[float, str] | None = None,
    *,
    collection: str = "cams",
    appended: float,
    fingerprint: str = FINGERPRINT,
    uri: str = "",
    is_ended: bool = False,
) -> list[SegmentRecord]:
    """Cut a stream of one picture a second, as far as it is known, into segments; the last one is open until it ended.

    Args:
        said: Texts of the utterances, by the second at which each begins.
        appended: When the chunk of media time zero was appended; the others followed in real time.
    """
    found, count = [], len(colours)
    for index in range(max(1, -(-count // STRIDE_SECONDS) - 1)):
        start = index * STRIDE_SECONDS
        end = min(start + WINDOW_SECONDS, count)
        is_final = is_ended or start + WINDOW_SECONDS <= count
        fresh_from = start + STRIDE_SECONDS if index else 0
        spoken = [utterance(text, at) for at, text in sorted((said or {}).items()) if at < end and at + 1.0 > start]
        vectors = np.stack([LOOKS[colour] for colour in colours[start:end]])
        mean = vectors.mean(axis=0)
        segment = Segment(
            segment_id=f"{video_id}/0/{index}",
            epoch=0,
            index=index,
            span=TimeSpan(start_seconds=float(start), end_seconds=float(end)),
            vector=mean / np.linalg.norm(mean),
        )
        found.append(
            SegmentRecord(
                segment=segment,
                collection=collection,
                video_id=video_id,
                revision=end - start + len(spoken) + is_final,
                is_final=is_final,
                frames=FrameEmbeddings(
                    epochs=np.zeros(end - start, np.int32),
                    pts_seconds=np.arange(start, end, dtype=np.float64),
                    vectors=vectors,
                ),
                thumbnails=tuple(f"{video_id} at {at}".encode() for at in range(fresh_from, end)),
                utterances=tuple(spoken),
                utterance_vectors=WordSumEncoder().encode([one.text for one in spoken]),
                continued_count=sum(one.start_seconds < fresh_from for one in spoken),
                fingerprint=fingerprint,
                watermark_seconds=float(end if is_final else fresh_from),
                source_append_time=appended + start,
                newest_append_time=appended + end,
                recorded_time=appended + start,
                uri=uri,
                media=MEDIA,
                is_last=is_ended and end == count,
            )
        )
    return found
