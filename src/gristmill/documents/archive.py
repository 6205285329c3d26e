"""A zip file's directory is judged before any of it is inflated."""

import zipfile
from typing import IO

from gristmill.documents.limits import MIB, Limits
from gristmill.documents.refusal import Refused, too_complex


def opened(source: IO[bytes], limits: Limits) -> zipfile.ZipFile:
    """Raises Refused: `document_broken`, `encrypted`, `document_too_complex`."""
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise Refused("document_broken") from error
    check(archive, limits)
    return archive


def check(archive: zipfile.ZipFile, limits: Limits) -> None:
    """zipfile never inflates more than the directory declares, so the declared sizes are what counts."""
    entries = archive.infolist()
    if len(entries) > limits.entries:
        raise too_complex(f"It is an archive of more than {limits.entries:,} parts.")
    if sum(entry.file_size for entry in entries) > limits.inflated_bytes:
        raise too_complex(f"Its parts unpack to more than {limits.inflated_bytes // MIB} MiB.")
    for entry in entries:
        _check_entry(entry, limits)


def _check_entry(entry: zipfile.ZipInfo, limits: Limits) -> None:
    if entry.flag_bits & 0x1:
        raise Refused("encrypted")
    if entry.file_size > limits.ratio_from and entry.file_size > limits.ratio * max(entry.compress_size, 1):
        raise too_complex(f"A part of it is packed more than {limits.ratio} to 1.")
    parts = entry.filename.replace("\\", "/").split("/")
    if entry.filename.startswith(("/", "\\")) or ".." in parts or "\x00" in entry.filename:
        raise Refused("document_broken", "The document is an archive with a part whose name leads out of it.")


def member(archive: zipfile.ZipFile, name: str, limits: Limits) -> bytes | None:
    """None if there is no such part. Raises Refused if it is too large to be kept in memory or damaged."""
    try:
        entry = archive.getinfo(name.lstrip("/"))
    except KeyError:
        return None
    if entry.file_size > limits.part_bytes:
        raise too_complex(f"A part of it unpacks to more than {limits.part_bytes // MIB} MiB.")
    return archive.read(entry)
