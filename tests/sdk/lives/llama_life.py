"""The life of batches by the `llama-cloud` package of whatever age: python llama_life.py URL KEY."""

import http.server
import json
import queue
import sys
import threading
import time

import llama_cloud

URL, KEY = sys.argv[1:]
SIX = ["PENDING", "THROTTLED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"]
SCHEMA = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
client = llama_cloud.LlamaCloud(base_url=URL, api_key=KEY)


def note(number):
    text = f'# Note {number}\n\nThe mill by the river. [say={{"total": {number}}}]\n'
    return f"note-{number}.md", text.encode()


def directory(*contents):
    made = client.beta.directories.create(name="notes", type="ephemeral")
    for one in contents:
        client.beta.directories.files.upload(made.id, upload_file=one)
    return made.id


def make(directory_id, configuration_id="cfg-PARSE_FAST", kind="parse_v2"):
    job = {"configuration_id": configuration_id, "type": kind}
    return client.batches.create(config={"job": job}, source_directory_id=directory_id)


def ended(batch):
    began = time.monotonic()
    while batch.status not in ("COMPLETED", "FAILED", "CANCELLED"):
        assert batch.status in SIX
        assert time.monotonic() - began < 90
        time.sleep(0.05)
        batch = client.batches.get(batch.id, expand=["results"])
    return batch


def refused(error, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def parsed():
    directory_id = directory(note(1), note(2), ("noise.bin", bytes(range(256)) * 20))
    done = ended(make(directory_id))
    assert done.status == "COMPLETED"
    assert len(done.results) == 3
    jobs = [client.parsing.get(one.job_reference.id, expand=["text", "markdown"]) for one in done.results]
    assert sorted(one.job.status for one in jobs) == ["COMPLETED", "COMPLETED", "FAILED"]
    texts = [one.text.pages[0].text for one in jobs if one.text]
    assert all("The mill by the river" in text for text in texts)
    assert all(one.markdown.pages[0].markdown.startswith("# Note") for one in jobs if one.markdown)
    alone = client.parsing.create(tier="fast", version="latest", upload_file=note(3))
    assert client.parsing.wait_for_completion(alone.id, polling_interval=0.05).status == "COMPLETED"


def extracted():
    parameters = {"product_type": "extract_v2", "data_schema": SCHEMA}
    configuration = client.configurations.create(name="totals", parameters=parameters)
    done = ended(make(directory(note(7)), configuration.id, "extract_v2"))
    assert done.status == "COMPLETED"
    job = client.extract.get(done.results[0].job_reference.id)
    assert job.extract_result == {"total": 7}


def steered():
    """Newer clients cancel; older ones know no such call."""
    if not hasattr(client.batches, "cancel"):
        return False
    batch = make(directory(*(note(n) for n in range(40))), "cfg-PARSE_AGENTIC")
    assert client.batches.cancel(batch.id).status in ("RUNNING", "CANCELLED")
    assert ended(client.batches.get(batch.id)).status == "CANCELLED"
    refused(llama_cloud.ConflictError, client.batches.cancel, batch.id)
    return True


def listed():
    ids = [one.id for one in client.batches.list(page_size=1)]
    assert len(ids) == len(set(ids)) >= 2


def jobs():
    """Single jobs in their list, and told by a webhook of their own."""
    came = queue.Queue()

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            came.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/hook"
    hook = {"webhook_url": url, "webhook_events": ["parse.success"], "webhook_output_format": "json"}
    job = client.parsing.create(
        tier="fast", version="latest", upload_file=note(4), webhook_configurations=[hook]
    )
    told = came.get(timeout=60)
    assert (told["event_type"], told["data"]["id"]) == ("parse.success", job.id)
    server.shutdown()
    ids = [one.id for one in client.parsing.list(page_size=1)]
    assert ids[0] == job.id
    assert len(ids) == len(set(ids)) == 2
    assert [one.id for one in client.parsing.list(job_ids=[job.id])] == [job.id]
    assert list(client.extract.list()) == []


def wrong():
    refused(llama_cloud.NotFoundError, client.batches.get, "bat-00000000-0000-7000-8000-000000000000")
    refused(llama_cloud.BadRequestError, make, directory())
    stranger = llama_cloud.LlamaCloud(base_url=URL, api_key="gm_none")
    refused(llama_cloud.AuthenticationError, stranger.batches.get, "bat-x")


began = time.monotonic()
parsed()
extracted()
cancels = steered()
lists = hasattr(client.batches, "list")
if lists:
    listed()
jobs()
wrong()
seconds = round(time.monotonic() - began, 1)
said = {"client": f"llama-cloud {llama_cloud.__version__}", "seconds": seconds}
print(json.dumps(said | {"cancels": cancels, "lists": lists}))
