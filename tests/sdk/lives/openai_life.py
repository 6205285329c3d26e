"""The life of batches by the `openai` package of whatever major: python openai_life.py URL KEY."""

import json
import sys
import time

import openai

URL, KEY = sys.argv[1:]
CHAT = "/v1/chat/completions"
EIGHT = [
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY)


def line(custom_id, text, url=CHAT):
    body = {"model": "gpt-any", "messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def make(*lines):
    file = client.files.create(file=("requests.jsonl", "\n".join(lines).encode()), purpose="batch")
    assert client.files.content(file.id).read() == "\n".join(lines).encode()
    return client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"a": "b"}
    )


def ended(batch):
    began = time.monotonic()
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        assert batch.status in EIGHT
        assert time.monotonic() - began < 90
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def rows(file_id):
    return {row["custom_id"]: row for row in map(json.loads, client.files.content(file_id).text.splitlines())}


def refused(error, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def whole_life():
    done = ended(make(line("a", "One"), line("b", "[fault=status:400]")))
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 1, 1)
    answer = rows(done.output_file_id)["a"]["response"]["body"]
    assert answer["choices"][0]["message"]["content"] == "You said: One"
    assert rows(done.error_file_id)["b"]["response"]["status_code"] == 400
    assert client.files.delete(done.output_file_id).deleted
    refused(openai.NotFoundError, client.files.retrieve, done.output_file_id)
    refused(openai.ConflictError, client.batches.cancel, done.id)


def ends_of_all_kinds():
    assert ended(make(line("a", "One"))).error_file_id is None
    assert ended(make(line("a", "[fault=status:401]"))).output_file_id is None
    failed = ended(make(line("a", "One"), line("b", "Two", "/v1/embeddings")))
    assert [(one.line, one.code) for one in failed.errors.data] == [(2, "url_mismatch")]
    cancelled = client.batches.cancel(make(*(line(str(n), f"{n}") for n in range(3000))).id)
    assert cancelled.status in ("cancelling", "cancelled")
    done = ended(cancelled)
    assert done.status == "cancelled"
    assert len(rows(done.error_file_id)) == done.request_counts.failed > 0


def lists_and_refusals():
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert len(listed) == len(set(listed)) == 5
    assert len([file.id for file in client.files.list(purpose="batch")]) == 5
    refused(openai.AuthenticationError, openai.OpenAI(base_url=f"{URL}/v1", api_key="gm_none").files.list)
    refused(openai.NotFoundError, client.batches.retrieve, "batch_none")
    refused(openai.BadRequestError, client.batches.list, after="none")


began = time.monotonic()
whole_life()
ends_of_all_kinds()
lists_and_refusals()
print(json.dumps({"client": f"openai {openai.__version__}", "seconds": round(time.monotonic() - began, 1)}))
