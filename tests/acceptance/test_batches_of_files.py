"""Batches of files and directories through a real server: uploaded, created, ingested, worked off, read."""

import json

import pytest

from stranger import BATCHES, Mill, Stranger

pytestmark = pytest.mark.slow


async def test_a_file_of_many_requests_becomes_a_batch_whose_results_come_in_its_order(
    stranger: Stranger,
) -> None:
    count = 3000
    lines = "".join(
        json.dumps({"custom_id": f"c-{n}", "input": {"text": f"{n}"}}) + "\n" for n in range(count)
    )
    file_id = await stranger.upload(lines.encode(), "requests.jsonl")
    batch = await stranger.make(processor="noop", source={"file_id": file_id})
    assert (batch["status"], batch["total_requests"]) == ("in_progress", count)
    ended = await stranger.ended(batch["id"])
    assert (ended["status"], ended["completed_requests"]) == ("completed", count)
    answer = await stranger.get(
        f"{BATCHES}/{batch['id']}/results", headers={"accept": "application/x-ndjson"}
    )
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [(one["custom_id"], one["output"]["text"]) for one in found] == [
        (f"c-{n}", f"{n}") for n in range(count)
    ]


async def test_a_table_is_asked_of_an_agent_row_by_row(mill: Mill, stranger: Stranger) -> None:
    """An agent named in a row is looked up as the file is read; the batch's own is that of the create."""
    default, special = await stranger.agent(), await stranger.agent(instructions="Be special.")
    text = f'Frage;Wer;Nr\r\nWas mahlt die Mühle?;;1\r\n"Wer; und\nwarum?";{special};2\r\n'
    source = {
        "file_id": await stranger.upload(text.encode("cp1252"), "fragen.csv"),
        "column_mapping": {"Frage": "message", "Wer": "agent_id", "Nr": "custom_id"},
    }
    checked = await stranger.post(f"{BATCHES}/validate", {"agent_id": default, "source": source})
    assert checked.json()["data"]["valid"] is True
    batch = await stranger.make(agent_id=default, source=source)
    ended = await stranger.ended(batch["id"])
    assert (ended["status"], ended["completed_requests"]) == ("completed", 2)
    asked = {
        request.body["messages"][-1]["content"]: request.body["messages"]
        for request in mill.llm.requests
        if request.said in {"Was mahlt die Mühle?", "Wer; und\nwarum?"}
    }
    assert len(asked) == 2
    assert asked["Wer; und\nwarum?"][0] == {"role": "system", "content": "Be special."}


async def test_a_bad_file_fails_its_batch_with_its_lines_and_there_is_nothing_to_retry(
    stranger: Stranger,
) -> None:
    file_id = await stranger.upload(b'{"custom_id": "a", "input": {"text": "1"}}\n{}\n', "requests.jsonl")
    batch = await stranger.make(processor="noop", source={"file_id": file_id})
    ended = await stranger.ended(batch["id"])
    assert (ended["status"], ended["failed_requests"], ended["completed_at"] is None) == ("failed", 2, False)
    assert ended["error"]["type"] == "bad_source"
    assert {one["pointer"] for one in ended["error"]["errors"]} == {"/lines/2/custom_id", "/lines/2/input"}
    assert await stranger.results(batch["id"]) == []
    retried = await stranger.post(f"{BATCHES}/{batch['id']}/retry")
    assert (retried.status_code, retried.json()["error"]["code"]) == (400, "nothing_to_retry")


async def test_every_file_of_a_directory_is_worked(stranger: Stranger) -> None:
    made = await stranger.post("/api/v1/directories", {"name": "Documents"})
    directory_id = made.json()["data"]["id"]
    sizes = {f"{n:03}.txt": n + 1 for n in range(40)}
    files = {name: await stranger.upload(b"x" * size, name) for name, size in sizes.items()}
    added = await stranger.post(f"/api/v1/directories/{directory_id}/files", {"file_ids": [*files.values()]})
    assert added.status_code == 200, added.text
    batch = await stranger.make(processor="reader", source={"directory_id": directory_id}, collection="shelf")
    assert (await stranger.ended(batch["id"]))["completed_requests"] == 40
    found = await stranger.results(batch["id"], "?limit=100")
    assert [(one["custom_id"], one["output"]["bytes"]) for one in found] == [
        (files[name], size) for name, size in sizes.items()
    ]
    tasks = await stranger.data("/api/v1/tasks?collection=shelf&file_name=03&page_size=100")
    assert [one["file_name"] for one in tasks] == ["003.txt", *(f"03{n}.txt" for n in range(10))]
