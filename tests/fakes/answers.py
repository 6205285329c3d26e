"""What the fake model says when all is well."""

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fakes.wire import Request

_CALL = re.compile(r"\[call=(\S+?)(?: (\{.*?\}))?\]")
_SAY = re.compile(r"\[say=([^\]]*)\]")


def answer(request: "Request") -> tuple[int, dict[str, Any]]:
    """Status and body."""
    paths = {
        "/v1/chat/completions": _chat,
        "/v1/embeddings": _embeddings,
        "/v1/responses": _responses,
        "/v1/messages": _messages,
    }
    if request.path == "/v1/models":
        return 200, {"object": "list", "data": [{"id": "fake-model", "object": "model"}]}
    made = paths.get(request.path.partition("?")[0])
    if made is None or not isinstance(request.body, dict):
        return 404, {"error": {"message": "no such path", "type": "invalid_request_error", "code": None}}
    return 200, made(request)


def tokens(text: str) -> int:
    return len(text.split())


def _chat(request: "Request") -> dict[str, Any]:
    messages = request.body["messages"]
    message = _tool_call(request) or {"role": "assistant", "content": _reply(request)}
    prompt = tokens(json.dumps(messages))
    completion = tokens(json.dumps(message))
    return {
        "id": f"chatcmpl-{_digest(request)[:8].hex()}",
        "object": "chat.completion",
        "model": request.body.get("model", "fake-model"),
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": "tool_calls" if "tool_calls" in message else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }


def _tool_call(request: "Request") -> dict[str, Any] | None:
    """The next call that the user's message asks for: one round each, told by the results that are there."""
    if not request.body.get("tools") or request.body.get("tool_choice") == "none":
        return None
    asked = _CALL.findall(request.said)
    messages = request.body["messages"]
    last_user = max(index for index, message in enumerate(messages) if message["role"] == "user")
    done = sum(message["role"] == "tool" for message in messages[last_user:])
    if "[forever]" in request.said:
        asked = asked * (done + 1)
    if done >= len(asked):
        return None
    name, arguments = asked[done]
    function = {"name": name, "arguments": arguments or "{}"}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call_{done}", "type": "function", "function": function}],
    }


def _reply(request: "Request") -> str:
    if said := _SAY.search(request.said):
        return said[1]
    results = [message["content"] for message in request.body["messages"] if message["role"] == "tool"]
    return f"You said: {request.said}" + "".join(f"\n{result}" for result in results)


def _embeddings(request: "Request") -> dict[str, Any]:
    given = request.body["input"]
    texts = given if isinstance(given, list) else [given]
    data = [
        {"object": "embedding", "index": index, "embedding": [byte / 255 for byte in _hash(text)[:8]]}
        for index, text in enumerate(texts)
    ]
    count = sum(tokens(str(text)) for text in texts)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "model": request.body.get("model"), "data": data, "usage": usage}


def _responses(request: "Request") -> dict[str, Any]:
    reply = f"You said: {request.said}"
    count = tokens(request.said)
    return {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "error": None,
        "model": request.body.get("model"),
        "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": reply}]},
        ],
        "usage": {
            "input_tokens": count,
            "output_tokens": tokens(reply),
            "total_tokens": count + tokens(reply),
        },
    }


def _messages(request: "Request") -> dict[str, Any]:
    reply = _reply(request)
    return {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": request.body.get("model"),
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
            {"type": "text", "text": reply},
        ],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": tokens(request.said), "output_tokens": tokens(reply)},
    }


def _digest(request: "Request") -> bytes:
    return _hash(json.dumps(request.body, sort_keys=True))


def _hash(text: object) -> bytes:
    return hashlib.sha256(str(text).encode()).digest()
