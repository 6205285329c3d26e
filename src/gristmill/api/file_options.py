"""What a caller may send about files and directories. These models check requests and write the OpenAPI document."""

from typing import Annotated

from pydantic import Field, StringConstraints

from gristmill.api.schemas import Name, Strict
from gristmill.processors.fields import CanonicalUUID

MAX_IDS = 1000


class FileFromUrl(Strict):
    """A file to be fetched."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=2048)] = Field(
        description="HTTPS, port 443, a public address; up to 3 redirects are followed. Fetched within 60 seconds"
    )
    filename: Name | None = Field(
        None, description="Without one: what the server calls it, or the URL's last part"
    )
    purpose: Name | None = Field(None, description="What it is for, in words of your own")


class DirectoryCreate(Strict):
    name: Name


class DirectoryFiles(Strict):
    """Files to be added."""

    file_ids: Annotated[list[CanonicalUUID], Field(min_length=1, max_length=MAX_IDS)]
