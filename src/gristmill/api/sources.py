"""Batches whose items are not in the request: an uploaded file, or the files of a directory."""

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from gristmill import processors
from gristmill.api.parts import Parts
from gristmill.api.schemas import SourceOptions
from gristmill.db import Transaction
from gristmill.domain.errors import NotFound
from gristmill.intake.draft import AnyProcessor, Draft
from gristmill.intake.source import FileOptions, Format, NotReadable, take
from gristmill.processors.completion import Completion, CompletionConfig
from gristmill.storage.base import Missing, file_key
from gristmill.store import directories, files, ingests, new_batches
from gristmill.store.files import File
from gristmill.store.new_batches import NewBatch

MAX_ITEMS = 1_000_000
# Of a CSV file, for its header: that is checked before a row exists. The worker reads the rest.
_SAMPLE_BYTES = 1024 * 1024
_FORMATS: dict[str, Format] = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@dataclass(frozen=True, slots=True)
class FromFile:
    """Read by a worker; `total` is what was counted at the upload. `owned`: see `api/inline.py`."""

    file_id: UUID
    options: FileOptions
    total: int
    owned: bool = False

    async def create(self, tx: Transaction, new: NewBatch) -> None:
        options = self.options.model_dump_json()
        await ingests.create(tx, new, self.total, self.file_id, options, owned=self.owned)


@dataclass(frozen=True, slots=True)
class FromDirectory:
    directory_id: UUID

    async def create(self, tx: Transaction, new: NewBatch) -> None:
        """The set of files as it is now, by name. Raises NotFound if it was emptied or deleted meanwhile."""
        await new_batches.create_of_directory(tx, new, self.directory_id)


async def chosen(
    parts: Parts,
    tenant_id: UUID,
    source: SourceOptions,
    processor: AnyProcessor | None,
    draft: Draft,
    *,
    fail_items: bool,
    config: Mapping[str, Any] | None = None,
) -> FromFile | FromDirectory | None:
    """None: something is wrong with it, and the draft says what. `config`: as the caller gave it."""
    if source.directory_id is not None:
        return await _directory(parts, tenant_id, source.directory_id, processor, draft)
    assert source.file_id is not None
    async with parts.database.connection() as connection:
        found = await files.find(connection, tenant_id, source.file_id)
    if found is None:
        draft.wrong("/source/file_id", "unknown_file", "no such file")
        return None
    url = _url(processor, config, draft) if source.format == "openai" else None
    made = await _file(parts, tenant_id, source, found, processor, draft)
    given = {"fail_items": fail_items, "url": url}
    return made and replace(made, options=made.options.model_copy(update=given))


def _url(processor: AnyProcessor | None, config: Mapping[str, Any] | None, draft: Draft) -> str:
    """What OpenAI calls the path that the batch's bodies go to."""
    if processor is not None and processor.name != Completion.name:
        detail = f"goes with the processor {Completion.name} only"
        draft.wrong("/source/format", "only_for_completion", detail)
    path = (config or {}).get("path", CompletionConfig().path)
    return f"/v1{path}"


# --- a file ---------------------------------------------------------------------------------------------------


async def _file(
    parts: Parts,
    tenant_id: UUID,
    source: SourceOptions,
    file: File,
    processor: AnyProcessor | None,
    draft: Draft,
) -> FromFile | None:
    known = source.format or _FORMATS.get(Path(file.filename).suffix.lower())
    if known is None:
        draft.wrong("/source/format", "missing", "say jsonl or csv: the file's name does not tell")
        return None
    options = FileOptions(
        format=known,
        column_mapping=source.column_mapping or {},
        encoding=source.encoding,
        delimiter=source.delimiter,
    )
    if known != "csv":
        _only_for_csv(source, draft)
    total = file.records if known == "csv" else file.lines
    if known == "csv" and processor is not None:
        total = await _records(parts, file_key(tenant_id, file.id), options, processor, total, draft)
    _check_total(total, draft)
    return None if draft.problems or total is None else FromFile(file.id, options, total)


def _only_for_csv(source: SourceOptions, draft: Draft) -> None:
    for name in ("column_mapping", "encoding", "delimiter"):
        if getattr(source, name) is not None:
            draft.wrong(f"/source/{name}", "only_for_csv", "goes with the format csv only")


def _check_total(total: int | None, draft: Draft) -> None:
    if draft.problems:
        return
    if total is None:
        draft.wrong("/source/file_id", "not_text", "the file is no text; upload JSON Lines or CSV")
    elif total < 1:
        draft.wrong("/source/file_id", "too_short", "at least 1 request")
    elif total > MAX_ITEMS:
        draft.wrong("/source/file_id", "too_long", f"at most {MAX_ITEMS:,} requests")


async def _records(
    parts: Parts, key: str, options: FileOptions, processor: AnyProcessor, counted: int | None, draft: Draft
) -> int | None:
    """How many records are behind the header, which is checked; None: the file is no text."""
    try:
        if counted is None:  # not UTF-8: counted byte by byte at the upload it would not come out right
            async with parts.storage.local(key) as path:
                return await asyncio.to_thread(_count, path, options, processor)
        with tempfile.NamedTemporaryFile(prefix="gristmill-") as sample:
            async for piece in parts.storage.read(key, 0, _SAMPLE_BYTES):
                sample.write(piece)
            sample.flush()
            await asyncio.to_thread(options.columns, Path(sample.name), processor.input_model)
        return counted - 1
    except NotReadable as wrong:
        draft.problems += wrong.problems
    except Missing:
        draft.wrong("/source/file_id", "unknown_file", "the bytes of this file are not in the storage")
    return None


def _count(path: Path, options: FileOptions, processor: AnyProcessor) -> int:
    rows = options.rows(path, processor.input_model)
    total = 0
    while some := len(take(rows, 1000)):
        total += some
        if total > MAX_ITEMS:
            break
    return total


# --- a directory ----------------------------------------------------------------------------------------------


async def _directory(
    parts: Parts, tenant_id: UUID, directory_id: UUID, processor: AnyProcessor | None, draft: Draft
) -> FromDirectory | None:
    at = "/source/directory_id"
    try:
        async with parts.database.engine.connect() as connection:
            found = await directories.get(connection, tenant_id, directory_id)
    except NotFound:
        draft.wrong(at, "unknown_directory", "no such directory")
        return None
    if found.files == 0:
        draft.wrong(at, "empty_directory", "the directory has no files")
    if processor is not None and not _takes_files(processor):
        draft.wrong(at, "takes_no_files", "the processor's input is not a file: it has no file_id")
    return FromDirectory(directory_id)


def _takes_files(processor: AnyProcessor) -> bool:
    """Whether a file alone is an input of this processor."""
    [found], _ = processors.validate(processor, [{"file_id": str(uuid4())}])
    return found is not None
