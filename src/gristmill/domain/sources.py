"""Where a document comes from, as items say it, and why one could not be opened."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID

from gristmill.domain.outcomes import Failure, ItemError, Retry

SourceCode = Literal[
    "file_not_found",
    "url_unreachable",
    "url_status",
    "source_refused",
    "source_not_found",
    "source_too_large",
    "storage_unavailable",
]


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of the item's own tenant (POST /api/v1/files)."""

    file_id: UUID


@dataclass(frozen=True, slots=True)
class UrlSource:
    """Fetched through the address guard."""

    url: str


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A path below GRISTMILL_LOCAL_ROOT: relative to it, or absolute and inside."""

    path: str


@dataclass(frozen=True, slots=True)
class ObjectSource:
    """An object below GRISTMILL_S3_ROOT: its key below that, or `s3://bucket/key`."""

    key: str


@dataclass(frozen=True, slots=True)
class BatchSource:
    """The requests that came with a batch: bytes that are no file of the tenant's. No item can name them."""

    file_id: UUID


Source = FileSource | UrlSource | LocalSource | ObjectSource | BatchSource


@dataclass(frozen=True, slots=True)
class OpenSource:
    """A document on this host's disk, to be read only. `filename` is what its owner calls it: to show, never a path."""

    path: Path
    filename: str


class SourceRefused(Exception):
    """Cannot be opened. `code` is for programs; the message quotes nothing of the source."""

    def __init__(
        self,
        code: SourceCode,
        message: str,
        *,
        suggestion: str | None = None,
        retryable: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.suggestion = suggestion
        self.retryable = retryable
        self.status = status  # of the HTTP answer, for `url_status`

    def outcome(self) -> Failure | Retry:
        """What a processor may answer with, and what becomes of an item whose processor lets this through."""
        error = ItemError(
            500 if self.code == "storage_unavailable" else 400,
            self.code,
            self.message,
            upstream_status=self.status,
            retryable=self.retryable,
            suggestion=self.suggestion,
        )
        return Retry(error) if self.retryable else Failure(error)
