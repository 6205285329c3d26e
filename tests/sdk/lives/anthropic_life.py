"""The life of message batches by the `anthropic` package of whatever major: python anthropic_life.py URL KEY."""

import json
import sys
import time

import anthropic

URL, KEY = sys.argv[1:]
client = anthropic.Anthropic(base_url=URL, api_key=KEY)
batches = client.messages.batches


def asked(custom_id, text, **params):
    messages = [{"role": "user", "content": text}]
    params = {"model": "claude-any", "max_tokens": 100, "messages": messages, **params}
    return {"custom_id": custom_id, "params": params}


def ended(batch):
    began = time.monotonic()
    while batch.processing_status != "ended":
        assert batch.processing_status in ("in_progress", "canceling")
        assert time.monotonic() - began < 90
        time.sleep(0.05)
        batch = batches.retrieve(batch.id)
    return batch


def results(batch):
    return {one.custom_id: one.result for one in batches.results(batch.id)}


def refused(error, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def whole_life():
    done = ended(batches.create(requests=[asked("a", "One"), asked("b", "[fault=status:400]")]))
    found = results(done)
    assert [*found] == ["a", "b"]
    assert found["a"].message.content[0].text == "You said: One"
    assert found["b"].error.error.type == "invalid_request_error"
    refused(anthropic.ConflictError, batches.cancel, done.id)
    assert batches.delete(done.id).type == "message_batch_deleted"
    refused(anthropic.NotFoundError, batches.retrieve, done.id)


def ends_of_all_kinds():
    assert ended(batches.create(requests=[asked("a", "[fault=status:401]")])).request_counts.errored == 1
    made = batches.create(requests=[asked(str(n), f"{n}") for n in range(3000)])
    refused(anthropic.ConflictError, batches.delete, made.id)
    cancelling = batches.cancel(made.id)
    assert cancelling.processing_status in ("canceling", "ended")
    done = ended(cancelling)
    assert done.request_counts.canceled > 0
    assert len(results(done)) == 3000
    beta = client.beta.messages.batches
    batch = ended(beta.create(requests=[asked("a", "One")]))
    assert [one.result.type for one in beta.results(batch.id)] == ["succeeded"]


def lists_and_refusals():
    for _ in range(2):
        ended(batches.create(requests=[asked("a", "One")]))
    listed = [batch.id for batch in batches.list(limit=2)]
    assert len(listed) == len(set(listed)) == 5
    refused(
        anthropic.AuthenticationError,
        anthropic.Anthropic(base_url=URL, api_key="gm_none").messages.batches.list,
    )
    refused(anthropic.NotFoundError, batches.retrieve, "msgbatch_none")
    refused(anthropic.BadRequestError, batches.create, requests=[asked("a", "One"), asked("a", "Two")])


began = time.monotonic()
whole_life()
ends_of_all_kinds()
lists_and_refusals()
print(
    json.dumps(
        {"client": f"anthropic {anthropic.__version__}", "seconds": round(time.monotonic() - began, 1)}
    )
)
