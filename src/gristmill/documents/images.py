"""Images: what kind, how large, and whether they are whole. In the child, and without a picture ever being unpacked in memory.

The four kinds that models take. A PNG's pixels are inflated piece by piece and counted, which finds what is broken or ends
too early; of the others the structure is walked to its end. Their pixels are not decoded: nobody here looks at them.
"""

import struct
import zlib
from collections.abc import Callable, Iterator

from gristmill.documents.document import Document, Page
from gristmill.documents.refusal import Refused, too_complex
from gristmill.documents.source import Source

MAX_BYTES = 20 * 1024 * 1024  # as for images that are attached to a message
MAX_PIXELS = 100_000_000
_PIECE = 1024 * 1024
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG, by colour type
# Adam7: first column, first row, and the steps, of each of the seven passes.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # of JPEG: those that tell the size
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length

Size = tuple[int, int]


def read(source: Source) -> Document:
    """A scanned page, with `width` and `height` in the metadata. Raises Refused, or anything else for what is broken."""
    data = source.data()
    if len(data) > MAX_BYTES:
        raise Refused("document_too_large", f"The image is larger than {MAX_BYTES // 2**20} MiB.")
    media_type, look = _kind(data)
    width, height = look(data)
    return Document(
        media_type, (Page(1, "", "", scanned=True),), {"width": str(width), "height": str(height)}
    )


def _kind(data: bytes) -> tuple[str, Callable[[bytes], Size]]:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png", _png
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg", _jpeg
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif", _gif
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp", _webp
    raise Refused("unsupported_type", "This is no image that can be read.", "Send PNG, JPEG, GIF or WebP.")


def _checked(width: int, height: int) -> Size:
    if not width or not height:
        raise Refused("document_broken")
    if width * height > MAX_PIXELS:
        raise too_complex(f"It has more than {MAX_PIXELS:,} pixels.")
    return width, height


# --- PNG --------------------------------------------------------------------------------------------------------


def _png(data: bytes) -> Size:
    chunks = _png_chunks(data)
    kind, header = next(chunks)
    if kind != b"IHDR":
        raise Refused("document_broken")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    size = _checked(width, height)
    left = _png_bytes(width, height, depth * _CHANNELS[colour], bool(interlaced))
    inflater = zlib.decompressobj()
    for kind, piece in chunks:
        if kind == b"IDAT":
            left -= _inflated(inflater, piece, left)
        if left <= 0:
            return size
    raise Refused("document_broken")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(body) != checksum:
            raise Refused("document_broken")
        yield body[:4], body[4:]
        at += 12 + length


def _png_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Of the pixels once inflated, each row with the byte that names its filter."""
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    total = 0
    for column, row, right, down in passes:
        columns, rows = -(-(width - column) // right), -(-(height - row) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def _inflated(inflater: "zlib._Decompress", piece: bytes, most: int) -> int:
    """How many bytes it becomes; stops counting at `most`."""
    size = 0
    while piece and size < most:
        size += len(inflater.decompress(piece, _PIECE))
        piece = inflater.unconsumed_tail
    return size


# --- the others -------------------------------------------------------------------------------------------------


def _jpeg(data: bytes) -> Size:
    size: Size | None = None
    at = 2
    while True:
        if data[at] != 0xFF:
            raise Refused("document_broken")
        marker = data[at + 1]
        if marker == 0xFF:  # fills
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker == 0xDA:  # the pixels, up to the end
            if size is None or data.rfind(b"\xff\xd9", at) < 0:
                raise Refused("document_broken")
            return size
        else:
            if marker in _FRAMES:
                height, width = struct.unpack_from(">HH", data, at + 5)
                size = _checked(width, height)
            at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])


def _gif(data: bytes) -> Size:
    width, height, packed = struct.unpack_from("<HHB", data, 6)
    size = _checked(width, height)
    at = 13 + _colours(packed)
    while data[at] != 0x2C:  # extensions before the first frame
        if data[at] != 0x21:
            raise Refused("document_broken")
        at = _after_blocks(data, at + 2)
    if _after_blocks(data, at + 11 + _colours(data[at + 9])) > len(data):
        raise Refused("document_broken")
    return size


def _colours(packed: int) -> int:
    """Bytes of the table of colours that follows, if one does."""
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while length := data[at]:
        at += 1 + length
    return at + 1


def _webp(data: bytes) -> Size:
    size: Size | None = None
    at, whole = 12, False
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        body = at + 8
        if body + length > len(data):
            raise Refused("document_broken")
        if kind in _WEBP_SIZES and size is None:
            size = _checked(*_WEBP_SIZES[kind](data, body))
        whole |= kind in (b"VP8 ", b"VP8L", b"ANMF")
        at = body + length + length % 2
    if size is None or not whole:
        raise Refused("document_broken")
    return size


def _lossy(data: bytes, at: int) -> Size:
    if data[at + 3 : at + 6] != b"\x9d\x01\x2a":
        raise Refused("document_broken")
    width, height = struct.unpack_from("<HH", data, at + 6)
    return width & 0x3FFF, height & 0x3FFF


def _lossless(data: bytes, at: int) -> Size:
    if data[at] != 0x2F:
        raise Refused("document_broken")
    (bits,) = struct.unpack_from("<I", data, at + 1)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _extended(data: bytes, at: int) -> Size:
    width, height = data[at + 4 : at + 7], data[at + 7 : at + 10]
    return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1


_WEBP_SIZES: dict[bytes, Callable[[bytes, int], Size]] = {
    b"VP8 ": _lossy,
    b"VP8L": _lossless,
    b"VP8X": _extended,
}
