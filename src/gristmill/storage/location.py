"""`s3://bucket/prefix`, and how to get there."""

import re
from dataclasses import dataclass

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SEGMENT = re.compile(r"[A-Za-z0-9!_.*'()-]+")


@dataclass(frozen=True, slots=True)
class Location:
    """Everything below `prefix` (without slashes around it; empty: the whole bucket)."""

    bucket: str
    prefix: str

    def inside(self, key: str) -> str:
        """The key of the bucket for a key below this location."""
        return f"{self.prefix}/{key}" if self.prefix else key


@dataclass(frozen=True, slots=True)
class Options:
    """Of the store. Without an endpoint it is AWS; without credentials they are found as AWS's tools find theirs."""

    endpoint: str | None = None
    region: str = "us-east-1"
    access_key_id: str | None = None
    secret_access_key: str | None = None


def location(url: str) -> Location:
    """Raises ValueError with a sentence for the operator."""
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    segments = [one for one in prefix.strip("/").split("/") if one]
    if scheme != "s3" or not _BUCKET.fullmatch(bucket) or not all(map(_is_segment, segments)):
        raise ValueError("must be s3://bucket or s3://bucket/prefix")
    return Location(bucket, "/".join(segments))


def _is_segment(text: str) -> bool:
    return text not in {".", ".."} and _SEGMENT.fullmatch(text) is not None
