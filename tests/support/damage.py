"""Damages the packets of a media file, and leaves the container as it is."""

import contextlib
import io
import random
from collections.abc import Callable

import av
from av.packet import Packet

Change = Callable[[int, bytes, bool], bytes | None]  # number, bytes and keyframe mark of a packet; None drops it


def damage_packets(media: bytes, format: str, change: Change) -> bytes:
    """Return the media with the packets of its first stream changed."""
    changed = io.BytesIO()
    with av.open(io.BytesIO(media)) as source, av.open(changed, "w", format=format) as target:
        stream = target.add_stream_from_template(source.streams[0])
        for number, packet in enumerate(p for p in source.demux(0) if p.size):
            content = change(number, bytes(packet), packet.is_keyframe)
            if content is None:
                continue
            copy = Packet(content)
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
            with contextlib.suppress(av.error.ArgumentError):  # the muxer reads H.264, and may refuse it
                target.mux(copy)
    return changed.getvalue()


def break_end(content: bytes) -> bytes:
    """Return a packet whose second half is lost, as after a lost datagram."""
    half = len(content) // 2
    return content[:half] + bytes(len(content) - half)


def random_change(chance: random.Random) -> Change:
    """Return damage to the keyframes, to packets here and there, or to some in a row."""
    place = chance.choice(["keyframes", "anywhere", "row"])
    kind = chance.choice(["flip", "zero", "drop", "mixed"])
    share, begin, length = chance.choice([0.03, 0.1, 0.4]), chance.randrange(90), chance.randrange(1, 20)

    def change(number: int, content: bytes, is_key: bool) -> bytes | None:
        is_hit = {
            "keyframes": is_key and chance.random() < 0.6,
            "anywhere": chance.random() < share,
            "row": begin <= number < begin + length,
        }[place]
        return _spoil(content, kind, chance) if is_hit else content

    return change


def _spoil(content: bytes, kind: str, chance: random.Random) -> bytes | None:
    data = bytearray(content)
    match chance.choice(["flip", "zero", "drop"]) if kind == "mixed" else kind:
        case "flip":
            for _ in range(chance.randint(1, 60)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case "zero":
            begin = chance.choice([0, chance.randrange(len(data))])
            data[begin:] = bytes(len(data) - begin)
        case "drop":
            return None
    return bytes(data)


def lose_transport_packets(media: bytes, share: float, chance: random.Random) -> bytes:
    """Return a transport stream without some of its packets of 188 bytes; its tables at the beginning stay."""
    packets = [media[at : at + 188] for at in range(0, len(media), 188)]
    return b"".join(p for i, p in enumerate(packets) if i < 6 or chance.random() > share)
