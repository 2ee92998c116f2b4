"""A small RTSP server: it plays the H.264 pictures of a file to each client, as RTP inside its connection."""

import base64
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import av
from av.bitstream import BitStreamFilterContext

from support.waiting import HANG_SECONDS

RTP_HZ = 90_000
PAYLOAD_BYTES = 1400  # of an RTP packet: one NAL unit or a fragment of it
SPS, PPS, FRAGMENT = 7, 8, 28  # types of NAL units
FIRST, LAST = 0x80, 0x40  # flags of a fragment


def read_pictures(path: Path) -> list[tuple[int, list[bytes]]]:
    """Return the pictures of a file in decoding order: presentation time at RTP_HZ, and the NAL units."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        to_start_codes = BitStreamFilterContext("h264_mp4toannexb", stream)
        for packet in container.demux(stream):
            for part in to_start_codes.filter(packet) if packet.size else ():
                assert part.pts is not None
                assert stream.time_base is not None
                units = [unit for unit in re.split(b"\0\0\0?\1", bytes(part)) if unit]
                found.append((round(part.pts * stream.time_base * RTP_HZ), units))
    return found


def rtp_packets(time: int, units: list[bytes], sequence: int) -> Iterator[bytes]:
    """Yield the RTP packets of one picture (RFC 6184)."""
    payloads: list[bytes] = []
    for unit in units:
        if len(unit) <= PAYLOAD_BYTES:
            payloads.append(unit)
            continue
        kind, body = unit[0] & 0x1F, unit[1:]
        for begin in range(0, len(body), PAYLOAD_BYTES):
            is_last = begin + PAYLOAD_BYTES >= len(body)
            flags = FIRST * (begin == 0) | LAST * is_last
            payloads.append(bytes([unit[0] & 0xE0 | FRAGMENT, flags | kind]) + body[begin : begin + PAYLOAD_BYTES])
    for number, payload in enumerate(payloads):
        marker = 0x80 * (number == len(payloads) - 1)
        yield struct.pack(">BBHII", 0x80, marker | 96, (sequence + number) & 0xFFFF, time & 0xFFFFFFFF, 1) + payload


class RtspServer:
    """Serves rtsp://127.0.0.1:PORT/cam, and closes each connection at the end of the file."""

    def __init__(self, path: Path) -> None:
        self._pictures = read_pictures(path)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/cam"
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(HANG_SECONDS)
        with client, client.makefile("rb") as lines:
            try:
                while request := lines.readline().decode():
                    headers = dict(
                        line.decode().strip().split(": ", 1) for line in iter(lines.readline, b"\r\n") if b": " in line
                    )
                    method = request.split()[0]
                    client.sendall(self._answer(method, headers["CSeq"]))
                    if method == "PLAY":
                        self._play(client)
                        return
            except OSError:  # the client has left
                return

    def _answer(self, method: str, number: str) -> bytes:
        more, body = "", ""
        if method == "OPTIONS":
            more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = self._describe()
            more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        else:
            more = "Session: 1\r\n"
        return f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{more}\r\n{body}".encode()

    def _describe(self) -> str:
        sets = [unit for unit in self._pictures[0][1] if unit[0] & 0x1F in (SPS, PPS)]
        encoded = ",".join(base64.b64encode(unit).decode() for unit in sets)
        lines = (
            "v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=cam", "c=IN IP4 127.0.0.1", "t=0 0",
            "m=video 0 RTP/AVP 96", f"a=rtpmap:96 H264/{RTP_HZ}",
            f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={encoded}", "a=control:track1",
        )  # fmt: skip
        return "".join(f"{line}\r\n" for line in lines)

    def _play(self, client: socket.socket) -> None:
        sequence = 0
        for time, units in self._pictures:
            for packet in rtp_packets(time + RTP_HZ, units, sequence):
                client.sendall(struct.pack(">BBH", ord("$"), 0, len(packet)) + packet)
                sequence += 1
