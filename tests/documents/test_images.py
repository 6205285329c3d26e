"""Images are looked at in the child: their kind and size, and that they are whole. Made by Pillow, broken by hand."""

import io
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from gristmill.documents import ParserPool, Picture, Refused
from gristmill.documents.images import MAX_BYTES


def made(kind: str, size: tuple[int, int] = (321, 204), mode: str = "RGB", **options: object) -> bytes:
    """With noise in it, so that its pixels take room."""
    noise = random.Random(7).randbytes(size[0] * size[1] * 3)
    image = Image.frombytes("RGB", size, noise).convert(mode)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


async def look(pool: ParserPool, tmp_path: Path, data: bytes) -> Picture:
    path = tmp_path / "image"
    path.write_bytes(data)
    return await pool.look(path)


async def code(pool: ParserPool, tmp_path: Path, data: bytes) -> str:
    with pytest.raises(Refused) as refused:
        await look(pool, tmp_path, data)
    return refused.value.code


GOOD = {
    "png": made("PNG"),
    "png of a palette": made("PNG", mode="P"),
    "png of one bit": made("PNG", mode="1"),
    "png with alpha": made("PNG", mode="RGBA"),
    "jpeg": made("JPEG"),
    "jpeg, progressive": made("JPEG", progressive=True),
    "jpeg, grey": made("JPEG", mode="L"),
    "gif": made("GIF"),
    "webp": made("WEBP"),
    "webp without loss": made("WEBP", lossless=True),
    "webp with metadata": made("WEBP", exif=b"Exif\0\0" + bytes(20)),
}


@pytest.mark.parametrize("name", GOOD)
async def test_kind_and_size_are_told(pool: ParserPool, tmp_path: Path, name: str) -> None:
    picture = await look(pool, tmp_path, GOOD[name])
    assert picture == Picture(f"image/{name[:4].rstrip(' ,')}", 321, 204)


@pytest.mark.parametrize("name", GOOD)
async def test_an_image_that_ends_too_early_is_broken(pool: ParserPool, tmp_path: Path, name: str) -> None:
    data = GOOD[name]
    for share in (0.02, 0.5, 0.9):
        assert await code(pool, tmp_path, data[: max(12, int(len(data) * share))]) == "document_broken"


async def test_an_animation_has_the_size_of_its_canvas(pool: ParserPool, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:])
        assert (await look(pool, tmp_path, out.getvalue())) == Picture(f"image/{kind.lower()}", 64, 48)


async def test_an_interlaced_png_is_counted_by_its_passes(pool: ParserPool, tmp_path: Path) -> None:
    """Pillow writes none: the smallest ones by hand, whole and one byte short."""
    for width, height in ((1, 1), (3, 5), (9, 8)):
        rows = sum(
            rows * (1 + columns)
            for columns, rows in (
                (-(-(width - x) // dx), -(-(height - y) // dy))
                for x, y, dx, dy in (
                    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
                )
            )
            if columns > 0 and rows > 0
        )  # fmt: skip
        whole = png(width, height, bytes(rows), interlaced=True)
        with Image.open(io.BytesIO(whole)) as image:
            image.load()  # a real reader takes it
        assert (await look(pool, tmp_path, whole)) == Picture("image/png", width, height)
        assert (
            await code(pool, tmp_path, png(width, height, bytes(rows - 1), interlaced=True))
            == "document_broken"
        )


def png(width: int, height: int, pixels: bytes, *, interlaced: bool = False) -> bytes:
    """In greys of 8 bits."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced)
    body = zlib.compress(pixels, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


async def test_a_bomb_is_refused_by_its_size_before_anything_is_unpacked(
    pool: ParserPool, tmp_path: Path
) -> None:
    bomb = png(60_000, 60_000, bytes(10_000_000))
    assert len(bomb) < 20_000
    assert await code(pool, tmp_path, bomb) == "document_too_complex"
    huge_gif = b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + GOOD["gif"][10:]
    assert await code(pool, tmp_path, huge_gif) == "document_too_complex"


async def test_what_inflates_to_more_than_the_pixels_is_not_unpacked_to_its_end(
    pool: ParserPool, tmp_path: Path
) -> None:
    data = png(10, 10, bytes(1_500_000_000 // 10) * 10)
    assert len(data) < 2_000_000
    assert (await look(pool, tmp_path, data)).width == 10


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"BM" + bytes(60),
        b"II*\0" + bytes(60),
        b"%PDF-1.7",
        b"\0",
    ],
)
async def test_other_files_are_no_images(pool: ParserPool, tmp_path: Path, data: bytes) -> None:
    assert await code(pool, tmp_path, data) == "unsupported_type"


async def test_an_image_has_a_limit_in_bytes(pool: ParserPool, tmp_path: Path) -> None:
    assert await code(pool, tmp_path, GOOD["png"] + bytes(MAX_BYTES)) == "document_too_large"


async def test_damage_anywhere_is_refused_or_told_rightly_and_never_more(
    pool: ParserPool, tmp_path: Path
) -> None:
    chance = random.Random(11)
    kinds = {"image/png", "image/jpeg", "image/gif", "image/webp"}
    refusals = {"document_broken", "document_too_complex", "unsupported_type"}
    for data in GOOD.values():
        for _ in range(6):
            damaged = bytearray(data)
            for _ in range(4):
                damaged[chance.randrange(min(len(damaged), 400))] = chance.randrange(256)
            assert await seen(pool, tmp_path, bytes(damaged)) in kinds | refusals


async def seen(pool: ParserPool, tmp_path: Path, data: bytes) -> str:
    """The media type, or the code of the refusal."""
    try:
        return (await look(pool, tmp_path, data)).media_type
    except Refused as refused:
        return refused.code


async def test_a_size_that_does_not_fit_its_checksum_is_not_believed(
    pool: ParserPool, tmp_path: Path
) -> None:
    data = bytearray(GOOD["png"])
    data[19] ^= 1  # of the width: 320, for which there are pixels enough
    assert await code(pool, tmp_path, bytes(data)) == "document_broken"
