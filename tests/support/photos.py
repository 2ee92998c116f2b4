"""Makes still pictures as phones and programs store them."""

import io
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
Colour = tuple[int, ...]
ORIENTATION = 0x112  # tag of EXIF


def draw_quarters(width: int = 160, height: int = 96) -> Image.Image:
    """Draw red and green above, blue and white below."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(WHITE, (width // 2, height // 2, width, height))
    return picture


def corners(picture: NDArray[np.uint8] | Image.Image) -> list[Colour]:
    """Return the four quarters' colours, each channel rounded to black, half or full."""
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    points = [(height // 4, width // 4), (height // 4, 3 * width // 4)]
    points += [(3 * height // 4, width // 4), (3 * height // 4, 3 * width // 4)]
    return [tuple(round(int(value) / 127.5) * 255 // 2 for value in pixels[y, x]) for y, x in points]


def exif_of(orientation: int) -> Image.Exif:
    """Return EXIF data with an orientation; 0: none."""
    exif = Image.Exif()
    exif[0x10F] = "Camera"  # its maker
    if orientation:
        exif[ORIENTATION] = orientation
    return exif


def encode_picture(picture: Image.Image, format: str, **options: Any) -> bytes:
    """Return a picture as a file, by Pillow."""
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def tiff_of(orientation: int, order: str = "<") -> bytes:
    """Return EXIF data of one tag, as it begins in PNG and WebP."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IHHHIHHI", 8, 1, ORIENTATION, 3, 1, orientation, 0, 0)


def insert_segments(photo: bytes, *contents: bytes) -> bytes:
    """Put segments of EXIF or XMP data (APP1) at the beginning of a JPEG."""
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content for content in contents)
    return photo[:2] + segments + photo[2:]


def insert_chunk(picture: bytes, kind: bytes, content: bytes, *, is_last: bool = False) -> bytes:
    """Put a chunk behind the header of a PNG, or at its end."""
    place = len(picture) - 12 if is_last else 33
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return picture[:place] + chunk + picture[place:]


def encode_scans(width: int, height: int, count: int) -> bytes:
    """Return a grey JPEG with `count` scans of some 80 bytes, each of which costs a decoder a pass over the picture."""
    photo = encode_picture(Image.new("L", (width, height), 99), "JPEG", progressive=True)
    return photo[:-2] + photo[photo.rindex(b"\xff\xda") : -2] * count + photo[-2:]


def pack_zeros(mebibytes: int) -> bytes:
    """Return so many MiB of zeros, deflated to a thousandth."""
    deflater, block = zlib.compressobj(9), bytes(1 << 20)
    return b"".join([*(deflater.compress(block) for _ in range(mebibytes)), deflater.flush()])


def turn_by_exif(picture: Image.Image, orientation: int) -> Image.Image:
    """Return the picture as shown with an orientation."""
    turned = picture.copy()
    turned.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(turned)


def encode_time_lapse(
    photos: Sequence[bytes], format: str = "matroska", counterclockwise: int = 0, codec: str = "mjpeg"
) -> bytes:
    """Return JPEG files, or those of another codec, as a video of one picture a second, rotated by its container."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=1)
        with Image.open(io.BytesIO(photos[0])) as first:
            stream.width, stream.height, stream.pix_fmt = *first.size, "yuvj420p" if codec == "mjpeg" else "rgb24"
        if counterclockwise:
            stream.set_display_rotation(counterclockwise)
        container.start_encoding()
        for number, photo in enumerate(photos):
            packet = av.Packet(photo)
            packet.stream, packet.time_base = stream, Fraction(1)
            packet.pts = packet.dts = number
            packet.duration, packet.is_keyframe = 1, True
            container.mux(packet)
    return file.getvalue()
