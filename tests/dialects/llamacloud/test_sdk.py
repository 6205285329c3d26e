"""The whole life of batches and jobs by the official SDK, `AsyncLlamaCloud`, against a real server with a worker."""

import asyncio
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import llama_cloud
import pytest
from llama_cloud import AsyncLlamaCloud, LlamaCloud
from llama_cloud._polling import PollingError

from dialects.llamacloud.reader import INVOICE, Reader
from documents.producers import PRODUCERS
from fakes.receiver import Receiver
from stranger import Mill, Stranger, arrive, until

pytestmark = pytest.mark.slow

ENDED = {"COMPLETED", "FAILED", "CANCELLED"}
WORDS = {"PENDING", "THROTTLED", "RUNNING"} | ENDED
FAST = "cfg-PARSE_FAST"


async def directory_of(sdk: AsyncLlamaCloud, *contents: tuple[str, bytes]) -> tuple[str, list[str]]:
    """Its id, and those of its files."""
    made = await sdk.beta.directories.create(name="invoices", type="ephemeral")
    uploaded = [await sdk.beta.directories.files.upload(made.id, upload_file=one) for one in contents]
    return made.id, [one.id for one in uploaded]


async def start(
    sdk: AsyncLlamaCloud, directory_id: str, configuration_id: str = FAST, kind: Any = "parse_v2"
) -> Any:
    job = {"configuration_id": configuration_id, "type": kind}
    return await sdk.batches.create(config={"job": job}, source_directory_id=directory_id)


async def ended(sdk: AsyncLlamaCloud, batch_id: str) -> Any:
    """The batch with its results. Every status on the way is one of theirs."""

    async def met() -> Any:
        batch = await sdk.batches.get(batch_id, expand=["results"])
        assert batch.status in WORDS
        assert (batch.results is not None) == (batch.status in ENDED)
        return batch if batch.status in ENDED else None

    return await until(met)


def note(number: int) -> tuple[str, bytes]:
    return (
        f"note-{number}.md",
        f"# Note {number}\n\nInvoice N{number} of the mill.\n\nTotal {number}.5\n".encode(),
    )


async def test_a_batch_goes_from_upload_to_the_text_and_markdown_of_every_file(
    sdk: AsyncLlamaCloud, tmp_path: Path
) -> None:
    directory_id, entries = await directory_of(sdk, note(1), note(2))
    PRODUCERS["story.docx"](tmp_path / "story.docx")
    file = await sdk.files.create(file=tmp_path / "story.docx", purpose="parse")
    assert (file.name, file.file_type, file.purpose) == ("story.docx", "docx", "parse")
    added = await sdk.beta.directories.files.add(
        directory_id, file_id=file.id, unique_id="story", metadata={"pages": 3, "tags": ["a"]}
    )
    assert (added.unique_id, added.metadata, added.display_name) == (
        "story",
        {"pages": 3, "tags": ["a"]},
        "story.docx",
    )
    parameters: Any = {"product_type": "parse_v2", "tier": "fast", "version": "latest"}
    configuration = await sdk.configurations.create(name="plain", parameters=parameters)
    assert configuration.parameters.to_dict() == parameters

    batch = await start(sdk, directory_id, configuration.id)
    assert batch.config.job.configuration_id == configuration.id
    assert (batch.source_directory_id, batch.project_id) == (directory_id, file.project_id)
    done = await ended(sdk, batch.id)
    assert done.status == "COMPLETED"
    assert done.updated_at >= done.created_at
    by_entry = {one.source_directory_file_id: one for one in done.results}
    assert by_entry.keys() == {*entries, added.id}
    assert all(one.error_message is None for one in done.results)

    for number, entry in enumerate(entries, 1):
        reference = by_entry[entry].job_reference
        assert reference.type == "parse_v2"
        job = await sdk.parsing.wait_for_completion(reference.id, polling_interval=0.05)
        assert (job.status, job.error_message) == ("COMPLETED", None)
        found = await sdk.parsing.get(reference.id, expand=["text", "markdown"])
        assert f"# Note {number}" in found.markdown.pages[0].markdown
        assert f"Invoice N{number} of the mill." in found.text.pages[0].text
        assert found.text.pages[0].page_number == 1
        assert found.job.tier == "fast"
        assert found.markdown_full is None
    story = await sdk.parsing.get(by_entry[added.id].job_reference.id, expand=["markdown_full", "metadata"])
    assert story.job.name == "story.docx"
    assert len(story.markdown_full) > 200
    assert story.text is None
    assert (await sdk.parsing.get(by_entry[added.id].job_reference.id)).markdown is None


async def test_a_file_comes_back_as_it_was_by_a_link_that_needs_no_key(
    sdk: AsyncLlamaCloud, mill: Mill
) -> None:
    content = bytes(range(256)) * 300
    file = await sdk.files.create(file=("letter.bin", content), purpose="user_data")
    link = await sdk.files.content(file.id)
    async with httpx2.AsyncClient(trust_env=False) as anybody:
        got = await anybody.get(link.url)
    assert (got.status_code, got.content) == (200, content)
    assert link.url.startswith(mill.url)
    [listed] = [one async for one in sdk.files.list(file_name="letter.bin")]
    assert listed.id == file.id
    assert (await sdk.files.retrieve(file.id, expand=["download_url"])).download_url.url
    await sdk.files.delete(file.id)
    with pytest.raises(llama_cloud.NotFoundError):
        await sdk.files.retrieve(file.id)


async def test_the_preset_of_an_agentic_parse_lets_the_model_mend(
    sdk: AsyncLlamaCloud, mill: Mill, reader: Reader
) -> None:
    text = b"# Mills\n\nWater turns the wheel, and the wheel turns the mill-\nstone until the evening comes again.\n"
    directory_id, _ = await directory_of(sdk, ("mills.md", text))
    batch = await start(sdk, directory_id, "cfg-PARSE_AGENTIC")
    done = await ended(sdk, batch.id)
    found = await sdk.parsing.get(done.results[0].job_reference.id, expand=["markdown"])
    assert found.job.tier == "agentic"
    assert "millstone" in found.markdown.pages[0].markdown


async def test_an_extract_batch_answers_by_the_schema_of_its_configuration(
    sdk: AsyncLlamaCloud, reader: Reader
) -> None:
    directory_id, entries = await directory_of(sdk, note(7), note(8))
    parameters: Any = {"product_type": "extract_v2", "data_schema": INVOICE, "system_prompt": "Invoices."}
    configuration = await sdk.configurations.create(name="invoices", parameters=parameters)
    assert configuration.parameters.data_schema == INVOICE
    batch = await start(sdk, directory_id, configuration.id, "extract_v2")
    done = await ended(sdk, batch.id)
    found = {}
    for one in done.results:
        job = await sdk.extract.wait_for_completion(one.job_reference.id, polling_interval=0.05)
        found[one.source_directory_file_id] = job.extract_result
        assert job.configuration_id == configuration.id
        assert job.file_input == one.source_directory_file_id.removeprefix("dfl-")
    assert found == {
        entries[0]: {"number": "N7", "total": 7.5},
        entries[1]: {"number": "N8", "total": 8.5},
    }


async def test_single_jobs_parse_an_upload_and_extract_from_what_was_parsed(
    sdk: AsyncLlamaCloud, reader: Reader
) -> None:
    parsed = await sdk.parsing.create(tier="fast", version="latest", upload_file=note(3))
    assert parsed.status == "PENDING"
    await sdk.parsing.wait_for_completion(parsed.id, polling_interval=0.05)
    assert "Total 3.5" in (await sdk.parsing.get(parsed.id, expand=["text_full"])).text_full

    extracted = await sdk.extract.create(file_input=parsed.id, configuration={"data_schema": INVOICE})
    job = await sdk.extract.wait_for_completion(extracted.id, polling_interval=0.05)
    assert (job.file_input, job.extract_result) == (parsed.id, {"number": "N3", "total": 3.5})
    assert [one async for one in sdk.batches.list()] == []

    await sdk.parsing.delete(parsed.id)
    with pytest.raises(llama_cloud.NotFoundError):
        await sdk.parsing.get(parsed.id)


async def test_a_document_that_cannot_be_read_fails_its_job_and_not_the_batch(sdk: AsyncLlamaCloud) -> None:
    directory_id, [good, bad] = await directory_of(sdk, note(1), ("noise.bin", bytes(range(256)) * 20))
    done = await ended(sdk, (await start(sdk, directory_id)).id)
    assert done.status == "COMPLETED"
    jobs = {one.source_directory_file_id: one.job_reference.id for one in done.results}
    assert [one.error_message for one in done.results] == [None, None]
    assert (await sdk.parsing.get(jobs[good])).job.status == "COMPLETED"
    failed = await sdk.parsing.get(jobs[bad], expand=["text"])
    assert (failed.job.status, failed.text) == ("FAILED", None)
    assert failed.job.error_message
    polled = await sdk.parsing.wait_for_completion(jobs[bad], polling_interval=0.05)
    assert polled.status == "FAILED"


async def test_a_batch_of_which_every_file_fails_is_completed(sdk: AsyncLlamaCloud) -> None:
    noise = [(f"noise-{n}.bin", bytes(range(256)) * (20 + n)) for n in range(3)]
    directory_id, _ = await directory_of(sdk, *noise)
    done = await ended(sdk, (await start(sdk, directory_id)).id)
    assert done.status == "COMPLETED"
    states = [(await sdk.parsing.get(one.job_reference.id)).job.status for one in done.results]
    assert states == ["FAILED"] * 3


async def test_cancel_keeps_what_has_ended_and_a_second_one_is_a_conflict_tried_once(
    sdk: AsyncLlamaCloud, stranger: Stranger, mill: Mill, reader: Reader
) -> None:
    directory_id, _ = await directory_of(sdk, *(note(n) for n in range(3)))
    batch = await start(sdk, directory_id)
    await ended(sdk, batch.id)
    with pytest.raises(llama_cloud.ConflictError) as refused:
        await sdk.batches.cancel(batch.id)
    assert refused.value.request.headers["x-stainless-retry-count"] == "0"
    assert "COMPLETED" in str(refused.value)

    waiting = await start(sdk, directory_id)
    await stranger.post(f"/api/v1/batches/{waiting.id.removeprefix('bat-')}/pause")
    cancelled = await sdk.batches.cancel(waiting.id)
    assert cancelled.status in {"RUNNING", "CANCELLED"}
    done = await ended(sdk, waiting.id)
    assert done.status == "CANCELLED"
    assert len(done.results) == 3
    for one in done.results:
        assert bool(one.error_message) != bool(one.job_reference)


async def test_a_job_alone_can_be_cancelled_and_one_of_a_batch_cannot(
    sdk: AsyncLlamaCloud, mill: Mill, reader: Reader
) -> None:
    gate = asyncio.Event()
    mill.llm.gate = lambda request: gate
    try:
        file = await sdk.files.create(file=note(1), purpose="parse")
        job = await sdk.parsing.create(tier="agentic", version="latest", file_id=file.id)
        cancelled = await sdk.parsing.cancel(job.id)
        assert cancelled.id == job.id
    finally:
        gate.set()
        mill.llm.gate = lambda request: None

    async def over() -> Any:
        found = await sdk.parsing.get(job.id)
        return found.job if found.job.status in ENDED else None

    # Where it ran already it is let end, as an item in flight is.
    assert (await until(over)).status in {"CANCELLED", "COMPLETED"}
    directory_id, _ = await directory_of(sdk, note(1))
    done = await ended(sdk, (await start(sdk, directory_id)).id)
    with pytest.raises(llama_cloud.ConflictError):
        await sdk.parsing.cancel(done.results[0].job_reference.id)


async def test_lists_page_by_themselves_and_filter(sdk: AsyncLlamaCloud) -> None:
    first, _ = await directory_of(sdk, note(1))
    second, _ = await directory_of(sdk, note(2))
    made = [(await start(sdk, directory_id)) for directory_id in (first, second, first, second, first)]
    for batch in made:
        await ended(sdk, batch.id)
    ids = [batch.id for batch in reversed(made)]
    assert [one.id async for one in sdk.batches.list(page_size=2)] == ids
    assert [one.id async for one in sdk.batches.list(page_size=1, source_directory_id=second)] == ids[1::2]
    assert [one.id async for one in sdk.batches.list(page_size=1, status="COMPLETED")] == ids
    for status in ("PENDING", "THROTTLED", "RUNNING", "FAILED", "CANCELLED"):
        assert [one async for one in sdk.batches.list(status=status)] == []  # type: ignore[arg-type]
    at = (await sdk.batches.get(made[2].id)).created_at
    later = [one.id async for one in sdk.batches.list(created_at_on_or_after=at)]
    assert later == ids[:3]
    assert [one.id async for one in sdk.beta.directories.list(page_size=1)] == [second, first]
    assert [one async for one in sdk.beta.directories.list(type="user")] == []
    entries = [one async for one in sdk.beta.directories.files.list(first, page_size=1)]
    assert [one.display_name for one in entries] == ["note-1.md"]


async def test_refusals_are_the_exceptions_that_their_users_catch(sdk: AsyncLlamaCloud, mill: Mill) -> None:
    unknown = uuid4()
    with pytest.raises(llama_cloud.NotFoundError):
        await sdk.batches.get(f"bat-{unknown}")
    with pytest.raises(llama_cloud.NotFoundError):
        await start(sdk, f"dir-{unknown}")
    empty = await sdk.beta.directories.create(name="empty")
    with pytest.raises(llama_cloud.BadRequestError, match="no files"):
        await start(sdk, empty.id)
    directory_id, _ = await directory_of(sdk, note(1))
    with pytest.raises(llama_cloud.BadRequestError, match="configuration"):
        await start(sdk, directory_id, f"cfg-{unknown}")
    with pytest.raises(llama_cloud.BadRequestError, match="another processor"):
        await start(sdk, directory_id, FAST, "extract_v2")
    with pytest.raises(llama_cloud.AuthenticationError):
        await start(sdk.with_options(api_key="gm_wrong"), directory_id)
    reads_only = await arrive(mill, ["batches:read"])
    with pytest.raises(llama_cloud.PermissionDeniedError):
        await start(sdk.with_options(api_key=reads_only.key), directory_id)


async def test_another_projects_batches_jobs_and_files_are_not_there(
    sdk: AsyncLlamaCloud, mill: Mill
) -> None:
    directory_id, [entry] = await directory_of(sdk, note(1))
    batch = await ended(sdk, (await start(sdk, directory_id)).id)
    other = sdk.with_options(api_key=(await arrive(mill)).key)
    asked = [
        other.batches.get(batch.id),
        other.batches.cancel(batch.id),
        other.parsing.get(batch.results[0].job_reference.id),
        other.beta.directories.get(directory_id),
        other.beta.directories.files.get(entry, directory_id=directory_id),
        other.files.retrieve(entry.removeprefix("dfl-")),
        start(other, directory_id),
    ]
    for call in asked:
        with pytest.raises(llama_cloud.NotFoundError):
            await call
    assert [one async for one in other.batches.list()] == []


async def test_a_batch_that_is_paused_through_the_other_api_never_shows_a_word_of_it(
    sdk: AsyncLlamaCloud, stranger: Stranger, mill: Mill, reader: Reader
) -> None:
    gate = asyncio.Event()
    mill.llm.gate = lambda request: gate
    try:
        directory_id, _ = await directory_of(sdk, *(note(n) for n in range(4)))
        batch = await start(sdk, directory_id, "cfg-PARSE_AGENTIC")
        canonical = batch.id.removeprefix("bat-")
        await stranger.until(canonical, lambda one: one["processing_requests"] > 0)
        assert (await sdk.batches.get(batch.id)).status == "RUNNING"
        await stranger.act(canonical, "pause")
        polled = [await sdk.batches.get(batch.id, expand=["results"]) for _ in range(3)]
        assert {one.status for one in polled} == {"RUNNING"}
        assert [one.results for one in polled] == [None] * 3
        await stranger.act(canonical, "resume")  # as long as the gate keeps it from its end
    finally:
        gate.set()
        mill.llm.gate = lambda request: None
    assert (await ended(sdk, batch.id)).status == "COMPLETED"


async def test_a_batch_that_the_models_endpoint_holds_up_shows_as_throttled(
    sdk: AsyncLlamaCloud, reader: Reader
) -> None:
    text = b"# Mills\n\n[fault=status:429 retry-after=3*1] Water turns the wheel until the evening comes.\n"
    directory_id, _ = await directory_of(sdk, ("mills.md", text))
    batch = await start(sdk, directory_id, "cfg-PARSE_AGENTIC")

    async def held_up() -> Any:
        found = [one async for one in sdk.batches.list(status="THROTTLED")]
        return found or None

    [found] = await until(held_up)
    assert found.id == batch.id
    assert (await ended(sdk, batch.id)).status == "COMPLETED"


async def test_webhooks_tell_of_the_batch_in_their_words_signed_over_the_body(
    sdk: AsyncLlamaCloud, receiver: Receiver
) -> None:
    secret = "a secret of the receiver"
    directory_id, _ = await directory_of(sdk, note(1))
    job: Any = {"configuration_id": FAST, "type": "parse_v2"}
    kept = await sdk.webhook_configs.create(
        webhook_url=f"{receiver.url}/kept", webhook_events=["batch.success"]
    )
    inline: Any = {
        "webhook_url": f"{receiver.url}/inline",
        "webhook_headers": {"X-Tenant": "mill"},
        "webhook_output_format": "json",
        "webhook_signing_secret": secret,
    }
    batch = await sdk.batches.create(
        config={"job": job},
        source_directory_id=directory_id,
        webhook_configurations=[inline],
        webhook_configuration_ids=[kept.id],
    )
    told = await receiver.until(3, path="/hook/inline")
    [end] = await receiver.until(1, path="/hook/kept")
    seen = {}
    for one in told:
        expected = hmac.new(secret.encode(), one.body, hashlib.sha256).hexdigest()
        assert one.headers["lc-signature"] == f"sha256={expected}"
        assert one.headers["x-tenant"] == "mill"
        body = json.loads(one.body)
        assert body["data"]["id"] == batch.id
        seen[body["event_type"]] = body["data"]["status"]
    assert seen == {"batch.pending": "PENDING", "batch.running": "RUNNING", "batch.success": "COMPLETED"}
    assert "lc-signature" not in end.headers
    quoted = json.loads(json.loads(end.body))  # `string`, which is what is meant if nothing is said
    assert (quoted["event_type"], quoted["data"]["id"]) == ("batch.success", batch.id)
    assert [one.id async for one in sdk.webhook_configs.list_paginated()] == [kept.id]
    await sdk.webhook_configs.delete(kept.id)


async def test_webhooks_of_single_jobs_tell_success_from_error_in_the_words_of_their_product(
    sdk: AsyncLlamaCloud, receiver: Receiver, reader: Reader
) -> None:
    async def told(name: str, count: int) -> dict[str, tuple[str, str]]:
        found = [json.loads(one.body) for one in await receiver.until(count, path=f"/hook/{name}")]
        return {one["event_type"]: (one["data"]["id"], one["data"]["status"]) for one in found}

    def hook(name: str) -> Any:
        return [{"webhook_url": f"{receiver.url}/{name}", "webhook_output_format": "json"}]

    kept = await sdk.webhook_configs.create(
        webhook_url=f"{receiver.url}/kept", webhook_events=["parse.error", "extract.success"],
        webhook_output_format="json",
    )  # fmt: skip
    ids = {"webhook_configuration_ids": [kept.id]}
    good = await sdk.parsing.create(
        tier="fast",
        version="latest",
        upload_file=note(1),
        webhook_configurations=hook("good"),
        extra_body=ids,
    )
    assert await told("good", 3) == {
        "parse.pending": (good.id, "PENDING"), "parse.running": (good.id, "RUNNING"),
        "parse.success": (good.id, "COMPLETED"),
    }  # fmt: skip
    noise = await sdk.files.create(file=("noise.bin", bytes(range(256)) * 20), purpose="parse")
    bad = await sdk.parsing.create(
        tier="fast", version="latest", file_id=noise.id, webhook_configurations=hook("bad"),
        webhook_configuration_ids=[kept.id],
    )  # fmt: skip
    assert (await told("bad", 3))["parse.error"] == (bad.id, "FAILED")
    assert await told("kept", 1) == {"parse.error": (bad.id, "FAILED")}
    extracted = await sdk.extract.create(
        file_input=good.id, configuration={"data_schema": INVOICE, "tier": "agentic"},  # type: ignore[typeddict-item]
        webhook_configuration_ids=[kept.id],
    )  # fmt: skip
    assert (await told("kept", 2))["extract.success"] == (extracted.id, "COMPLETED")


async def test_jobs_are_listed_by_pages_and_filters(sdk: AsyncLlamaCloud, mill: Mill, reader: Reader) -> None:
    files = [await sdk.files.create(file=note(n), purpose="parse") for n in range(3)]
    noise = await sdk.files.create(file=("noise.bin", bytes(range(256)) * 20), purpose="parse")
    made = [
        await sdk.parsing.create(tier="fast", version="latest", file_id=file.id) for file in [*files, noise]
    ]
    for job in made:
        await sdk.parsing.wait_for_completion(job.id, polling_interval=0.05)
    ids = [job.id for job in reversed(made)]
    listed = [one async for one in sdk.parsing.list(page_size=2)]
    assert [one.id for one in listed] == ids
    assert [one.status for one in listed] == ["FAILED", "COMPLETED", "COMPLETED", "COMPLETED"]
    assert (listed[0].error_message is not None, listed[1].name) == (True, "note-2.md")
    assert [one.id async for one in sdk.parsing.list(page_size=1, status="COMPLETED")] == ids[1:]
    assert [one async for one in sdk.parsing.list(status="RUNNING")] == []
    assert [one.id async for one in sdk.parsing.list(job_ids=[ids[2], ids[0], "pjb-none"])] == [
        ids[0],
        ids[2],
    ]
    later = sdk.parsing.list(created_at_on_or_after=listed[1].created_at)
    assert [one.id async for one in later] == ids[:2]

    configuration: Any = {"data_schema": INVOICE, "tier": "agentic"}
    of_file = await sdk.extract.create(file_input=files[0].id, configuration=configuration)
    of_job = await sdk.extract.create(file_input=made[0].id, configuration=configuration)
    assert [one.id async for one in sdk.extract.list(page_size=1)] == [of_job.id, of_file.id]
    assert [one.id async for one in sdk.extract.list(file_input=made[0].id)] == [of_job.id]
    assert [one.id async for one in sdk.extract.list(document_input_type="file_id")] == [of_file.id]
    assert [one async for one in sdk.extract.list(configuration_id="cfg-other")] == []
    other = sdk.with_options(api_key=(await arrive(mill)).key)
    assert [one async for one in other.parsing.list()] == []
    assert [one async for one in other.parsing.list(job_ids=ids)] == []
    with pytest.raises(llama_cloud.BadRequestError):
        await sdk.parsing.list(status="DONE")  # type: ignore[arg-type]


async def test_10_documents_of_every_kind_come_out_as_pages_of_text_and_markdown(
    sdk: AsyncLlamaCloud, tmp_path: Path
) -> None:
    written = {
        "a.txt": b"A mill is turned by water.",
        "a.md": b"# A mill\n\nturned by water",
        "a.html": b"<html><body><h1>A mill</h1><p>turned by water</p></body></html>",
        "a.csv": b"what,by\nmill,water\n",
        "a.json": b'{"mill": "water"}',
        "a.xml": b"<?xml version='1.0'?><mill><by>water</by></mill>",
    }
    for name in ("story.docx", "story.pptx", "parts.xlsx", "typed.pdf"):
        PRODUCERS[name](tmp_path / name)
        written[name] = (tmp_path / name).read_bytes()
    directory_id, _ = await directory_of(sdk, *written.items())
    done = await ended(sdk, (await start(sdk, directory_id)).id)
    read = {}
    for one in done.results:
        found = await sdk.parsing.get(one.job_reference.id, expand=["text", "markdown"])
        assert found.job.status == "COMPLETED", found.job.name
        assert all(page.success for page in found.markdown.pages)
        assert [page.page_number for page in found.text.pages] == list(range(1, len(found.text.pages) + 1))
        read[found.job.name] = " ".join(page.text for page in found.text.pages)
    assert read.keys() == written.keys()
    assert [name for name, text in read.items() if name.startswith("a.") and "water" not in text] == []
    assert [name for name, text in read.items() if not name.startswith("a.") and len(text) < 50] == []


def test_the_other_client_of_the_sdk_runs_a_batch_as_well(mill: Mill, stranger: Stranger) -> None:
    with LlamaCloud(base_url=mill.url, api_key=stranger.key) as sdk:
        made = sdk.beta.directories.create(name="again")
        sdk.beta.directories.files.upload(made.id, upload_file=note(5))
        config: Any = {"job": {"configuration_id": FAST, "type": "parse_v2"}}
        batch = sdk.batches.create(config=config, source_directory_id=made.id)
        [one] = list(sdk.batches.list())
        assert one.id == batch.id
        bad = sdk.parsing.create(tier="fast", version="latest", upload_file=("n.bin", bytes(range(256)) * 9))
        with pytest.raises(PollingError, match="cannot be read"):
            sdk.parsing.wait_for_completion(bad.id, polling_interval=0.05)
        sdk.beta.directories.delete(made.id)
        with pytest.raises(llama_cloud.NotFoundError):
            sdk.beta.directories.get(made.id)
