"""A zip file that somebody sent: its directory is checked before anything is unpacked.

What it declares is checked first, what it then holds a second time while it is read: both may lie.
"""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from gristmill.domain.errors import Invalid, Problem
from gristmill.domain.media import ARCHIVES
from gristmill.storage.base import PIECE_BYTES

MAX_MEMBERS = 10_000
MAX_RATIO = 200  # unpacked to packed, of one member above 1 MiB and of all: text comes to 3–20, bombs to 1000
MAX_DEPTH = 32
MAX_PATH = 1024
MAX_NAME = 256
_RATIO_FROM_BYTES = 1024 * 1024
_MAX_LISTING_BYTES = 16 * 1024 * 1024  # of the archive's own directory, which is read into memory
_END = b"PK\x05\x06"
_END_BYTES = 22 + 65_535  # the record at the end, and the longest comment behind it
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})  # the others may take much memory to unpack
_JUNK = re.compile(r"(^|/)(__MACOSX/|\.DS_Store$|Thumbs\.db$|desktop\.ini$)")
_DRIVE = re.compile(r"[A-Za-z]:")
_NOT_UNPACKED = "an archive within the archive is not unpacked: leave it out"
# What the library raises for bytes that are no archive, or not the one they say.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
)
_NESTED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".jar")


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the archive. `path` has been checked; `index` is its place in the archive's directory."""

    index: int
    path: str
    info: zipfile.ZipInfo

    @property
    def filename(self) -> str:
        return self.path.rpartition("/")[2]


class Archive:
    """Open it with `with`. Blocking throughout: not for the event loop's thread."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        """`max_bytes`: of all members together, and of each. Raises Invalid with everything that is wrong."""
        _check_listing(file)
        try:
            self._zip = zipfile.ZipFile(file)
        except _BROKEN:
            raise _refusal("invalid_zip", "this is no zip file, or a damaged one") from None
        self.members = _checked(self._zip.infolist(), max_bytes)

    def pieces(self, member: Member) -> Iterator[bytes]:
        """Raises Invalid if there is something else inside than the archive's directory says."""
        left = member.info.file_size
        try:
            with self._zip.open(member.info) as inside:
                while piece := inside.read(PIECE_BYTES):
                    left -= len(piece)
                    yield piece
        except _BROKEN:
            left = -1
        if left != 0:
            raise _refusal("invalid_zip", "this member cannot be unpacked", member.index)


def check_kind(member: Member, media_type: str) -> None:
    """By the bytes, after those that names tell. Office documents are zip files, too, and let through."""
    if media_type in ARCHIVES:
        raise _refusal("nested_archive", _NOT_UNPACKED, member.index)


def _check_listing(file: IO[bytes]) -> None:
    """Before the library reads the whole directory into memory: how large it says it is."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_BYTES))
    tail = file.read()
    file.seek(0)
    end = tail.rfind(_END)
    if end < 0 or len(tail) < end + 22:
        raise _refusal("invalid_zip", "this is no zip file, or a damaged one")
    members = int.from_bytes(tail[end + 10 : end + 12], "little")
    listing = int.from_bytes(tail[end + 12 : end + 16], "little")
    if members > MAX_MEMBERS:  # 65,535 stands for more
        raise _too_many()
    if listing > _MAX_LISTING_BYTES:
        raise _refusal("archive_too_complex", "the archive's directory is too large")


def _checked(infos: list[zipfile.ZipInfo], max_bytes: int) -> list[Member]:
    if len(infos) > MAX_MEMBERS:
        raise _too_many()
    wrong: list[Problem] = []
    members: list[Member] = []
    seen: set[str] = set()
    for index, info in enumerate(infos):
        path = info.orig_filename.replace("\\", "/")
        if _JUNK.search(path) or (path.endswith("/") and info.file_size == 0):
            continue
        wrong += [Problem(f"/{index}", code, detail) for code, detail in _faults(info, path, seen, max_bytes)]
        seen.add(path.casefold())
        members.append(Member(index, path, info))
    wrong += _faults_of_all(infos, members, max_bytes)
    if wrong:
        raise Invalid(wrong)
    return members


def _faults(info: zipfile.ZipInfo, path: str, seen: set[str], max_bytes: int) -> Iterator[tuple[str, str]]:
    yield from _faults_of_path(path, seen)
    if info.flag_bits & 0x1:
        yield "encrypted", "members must not be encrypted"
    if info.compress_type not in _METHODS:
        yield "unsupported_compression", "members must be stored or deflated"
    if stat.S_IFMT(info.external_attr >> 16) not in {0, stat.S_IFREG}:
        yield "not_a_file", "members must be plain files"
    if path.lower().endswith(_NESTED):
        yield "nested_archive", _NOT_UNPACKED
    if info.file_size > max_bytes:
        yield "member_too_large", f"a file has at most {max_bytes} bytes"
    if info.file_size > _RATIO_FROM_BYTES and info.file_size > MAX_RATIO * max(1, info.compress_size):
        yield "archive_too_complex", f"unpacked to more than {MAX_RATIO} times its size"


def _faults_of_path(path: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    parts = path.split("/")
    if path.startswith("/") or _DRIVE.match(path):
        yield "absolute_path", "paths must be relative"
    elif ".." in parts or "." in parts or not all(parts):
        yield "unsafe_path", "paths must not hold . or .. or empty parts"
    if any(ord(one) < 32 or ord(one) == 127 or 0xD800 <= ord(one) <= 0xDFFF for one in path):
        yield "unsafe_path", "paths must not hold control characters"
    if len(path) > MAX_PATH or len(parts[-1]) > MAX_NAME or len(parts) > MAX_DEPTH:
        yield (
            "path_too_long",
            f"a path has at most {MAX_PATH} characters in {MAX_DEPTH} parts, its name {MAX_NAME}",
        )
    if path.casefold() in seen:
        yield "duplicate_path", "the same path as another member's, but for upper and lower case"


def _faults_of_all(infos: list[zipfile.ZipInfo], members: list[Member], max_bytes: int) -> Iterator[Problem]:
    unpacked = sum(info.file_size for info in infos)
    packed = sum(info.compress_size for info in infos)
    if not members:
        yield Problem("", "empty_archive", "there is no file in the archive")
    if unpacked > max_bytes:
        yield Problem("", "archive_too_large", f"unpacked it has more than {max_bytes} bytes")
    if unpacked > _RATIO_FROM_BYTES and unpacked > MAX_RATIO * max(1, packed):
        yield Problem("", "archive_too_complex", f"unpacked to more than {MAX_RATIO} times its size")


def _too_many() -> Invalid:
    return _refusal("too_many_members", f"an archive has at most {MAX_MEMBERS} members")


def _refusal(code: str, detail: str, index: int | None = None) -> Invalid:
    return Invalid([Problem("" if index is None else f"/{index}", code, detail)])
