"""The life of batches by the `openai` package of whatever major: python openai_life.py URL KEY."""

import http.server
import json
import queue
import sys
import threading
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


def told():
    """Newer clients keep webhook endpoints; older ones know no such call."""
    if not hasattr(client.webhooks, "create"):
        return False
    came = queue.Queue()

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            came.put((self.rfile.read(int(self.headers["Content-Length"])), dict(self.headers)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/hook"
    endpoint = client.webhooks.create(name="ends", url=url, event_types=["batch.completed"])
    assert [one.id for one in client.webhooks.list(limit=1)] == [endpoint.id]
    assert client.webhooks.update(endpoint.id, name="other").name == "other"
    assert client.webhooks.test(endpoint.id, event_type="batch.failed").status_code == 204
    assert (
        client.webhooks.unwrap(*came.get(timeout=60), secret=endpoint.signing_secret).type == "batch.failed"
    )
    rotated = client.webhooks.rotate_secret(endpoint.id)
    done = ended(make(line("a", "One")))
    body, headers = came.get(timeout=60)
    event = client.webhooks.unwrap(body, headers, secret=rotated.signing_secret)
    assert (event.type, event.data.id) == ("batch.completed", done.id)
    refused(
        openai.InvalidWebhookSignatureError,
        client.webhooks.unwrap,
        body,
        headers,
        secret=endpoint.signing_secret,
    )
    assert client.webhooks.delete(endpoint.id).deleted
    refused(openai.NotFoundError, client.webhooks.retrieve, endpoint.id)
    server.shutdown()
    return True


began = time.monotonic()
whole_life()
ends_of_all_kinds()
lists_and_refusals()
endpoints = told()
seconds = round(time.monotonic() - began, 1)
print(
    json.dumps({"client": f"openai {openai.__version__}", "seconds": seconds, "webhook_endpoints": endpoints})
)
