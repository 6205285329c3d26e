"""A file that is here only for the time of one answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gristmill.api import incoming
from gristmill.api.parts import Parts
from gristmill.api.upload import Upload, discard
from gristmill.store import files
from gristmill.store.files import NewFile
from gristmill.store.keys import Key

_DAYS = 1  # should this process end before it has removed the file


@asynccontextmanager
async def passing(
    of: Parts, key: Key, pieces: AsyncIterator[bytes], name: Callable[[], str]
) -> AsyncIterator[NewFile]:
    """`name` is asked once all pieces have come. Raises what `pieces` raises, Invalid for a file without content."""
    async with Upload(of, key.tenant_id) as upload:
        [file_id] = await upload.expect()
        inspection = await upload.bring(file_id, pieces)
        new = incoming.new_file(file_id, incoming.name_of(name()), inspection)
        async with of.database.engine.begin() as connection:
            await upload.add(connection, [new], retention_days=_DAYS)
        upload.kept()
    try:
        yield new
    finally:
        await asyncio.shield(_removed(of, key, new))


async def _removed(of: Parts, key: Key, new: NewFile) -> None:
    async with of.database.engine.begin() as connection:
        await files.remove(connection, key.tenant_id, [new.id])
    await discard(of, key.tenant_id, [new.id])
