"""What a file is to those who read it."""

from dataclasses import dataclass
from uuid import UUID

_TEXTS = frozenset({"application/json", "message/rfc822"})
IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of the caller's own tenant, with its content."""

    id: UUID
    filename: str
    media_type: str
    data: bytes


def readable_by_model(media_type: str) -> bool:
    """Whether a model can be given a file of this type in this version: as text, or as an image."""
    return media_type.startswith("text/") or media_type in _TEXTS or media_type in IMAGES
