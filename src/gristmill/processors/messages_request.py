"""From the parameters of Anthropic's Messages API to a body for `/chat/completions`. Pure.

Left out, because the answer is the same without: `cache_control`, `service_tier`, `speed`, thinking of earlier turns. What
would change the answer and has no counterpart is Inexpressible.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

Json = dict[str, Any]

_LEFT_OUT = frozenset({
    "cache_control", "diagnostics", "service_tier", "speed", "user_profile_id", "workspace_id",
})  # fmt: skip
# Tuples: what stands there may be anything, and not all of it can be looked up in a set.
_THINKING = ("thinking", "redacted_thinking")
_EFFORTS = ("low", "medium", "high")
_NOT_HERE = "cannot be expressed on this endpoint"


class Inexpressible(Exception):
    """`at` is where in the parameters; the message quotes nothing of what stands there."""

    def __init__(self, at: str, why: str) -> None:
        super().__init__(f"{at}: {why}")


def chat(params: Mapping[str, Any]) -> Json:
    """Raises Inexpressible."""
    body: Json = {"messages": []}
    for name, value in params.items():
        if name in _LEFT_OUT or value is None:
            continue
        if name not in _FIELDS:
            raise Inexpressible(_shown(name), _NOT_HERE)
        _FIELDS[name](value, body)
    if "max_tokens" not in body:
        raise Inexpressible("max_tokens", "is required")
    if not body["messages"] or body["messages"][-1]["role"] == "system":
        raise Inexpressible("messages", "at least one is required")
    return body


def _shown(name: str) -> str:
    return name if name.isidentifier() and len(name) <= 64 else "a parameter"


# --- single parameters ----------------------------------------------------------------------------------------


def _kept(name: str, kind: type | tuple[type, ...], called: str | None = None) -> Callable[[Any, Json], None]:
    def keep(value: Any, body: Json) -> None:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise Inexpressible(name, "is of the wrong type")
        body[called or name] = value

    return keep


def _system(value: Any, body: Json) -> None:
    body["messages"].insert(0, {"role": "system", "content": _texts(value, "system")})


def _messages(value: Any, body: Json) -> None:
    for index, message in enumerate(_list(value, "messages")):
        at = f"messages.{index}"
        role = _object(message, at).get("role")
        if role == "user":
            body["messages"] += _user(message.get("content"), at)
        elif role == "assistant":
            body["messages"].append(_assistant(message.get("content"), at))
        else:
            raise Inexpressible(f"{at}.role", "must be user or assistant")


def _tools(value: Any, body: Json) -> None:
    made = [
        _tool(_object(tool, f"tools.{index}"), f"tools.{index}")
        for index, tool in enumerate(_list(value, "tools"))
    ]
    if made:
        body["tools"] = made


def _tool(tool: Json, at: str) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise Inexpressible(at, f"a tool that the provider runs {_NOT_HERE}")
    function = {"name": tool.get("name"), "parameters": tool.get("input_schema")}
    function |= {name: tool[name] for name in ("description", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _tool_choice(value: Any, body: Json) -> None:
    choice = _object(value, "tool_choice")
    plain = {"auto": "auto", "any": "required", "none": "none"}
    kind = choice.get("type")
    if kind == "tool":
        body["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif isinstance(kind, str) and kind in plain:
        body["tool_choice"] = plain[kind]
    else:
        raise Inexpressible("tool_choice", _NOT_HERE)
    if choice.get("disable_parallel_tool_use"):
        body["parallel_tool_calls"] = False


def _thinking(value: Any, body: Json) -> None:
    if _object(value, "thinking").get("type") not in ("disabled", "adaptive"):
        raise Inexpressible("thinking", f"a budget {_NOT_HERE}")


def _output_config(value: Any, body: Json) -> None:
    config = _object(value, "output_config")
    if (effort := config.get("effort")) is not None:
        if effort not in _EFFORTS:
            raise Inexpressible("output_config.effort", _NOT_HERE)
        body["reasoning_effort"] = effort
    if (form := config.get("format")) is not None:
        if _object(form, "output_config.format").get("type") != "json_schema":
            raise Inexpressible("output_config.format", _NOT_HERE)
        schema = {"name": "answer", "schema": form.get("schema"), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}


def _metadata(value: Any, body: Json) -> None:
    if (user := _object(value, "metadata").get("user_id")) is not None:
        body["user"] = user


def _stream(value: Any, body: Json) -> None:
    if value:
        raise Inexpressible("stream", "a batch takes no requests with it")


_FIELDS: dict[str, Callable[[Any, Json], None]] = {
    "model": _kept("model", str),
    "max_tokens": _kept("max_tokens", int),
    "temperature": _kept("temperature", (int, float)),
    "top_p": _kept("top_p", (int, float)),
    "stop_sequences": _kept("stop_sequences", list, "stop"),
    "system": _system,
    "messages": _messages,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "thinking": _thinking,
    "output_config": _output_config,
    "metadata": _metadata,
    "stream": _stream,
}


# --- what was said --------------------------------------------------------------------------------------------


def _user(content: Any, at: str) -> list[Json]:
    """Results of tools are messages of their own, before what the user says."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    told, parts = list[Json](), list[Json]()
    for index, block in enumerate(_list(content, f"{at}.content")):
        inside = f"{at}.content.{index}"
        if _object(block, inside).get("type") == "tool_result":
            told.append(_tool_result(block, inside))
        else:
            parts.append(_part(block, inside))
    return [*told, {"role": "user", "content": parts}] if parts else told


def _part(block: Json, at: str) -> Json:
    match block.get("type"):
        case "text":
            return {"type": "text", "text": _string(block.get("text"), f"{at}.text")}
        case "image":
            return {"type": "image_url", "image_url": {"url": _image(block, at)}}
        case "document":
            return {"type": "text", "text": _document(block, at)}
    raise Inexpressible(at, f"a block of this type {_NOT_HERE}")


def _image(block: Json, at: str) -> str:
    source = _object(block.get("source"), f"{at}.source")
    if source.get("type") == "url":
        return _string(source.get("url"), f"{at}.source.url")
    if source.get("type") == "base64":
        media_type = _string(source.get("media_type"), f"{at}.source.media_type")
        return f"data:{media_type};base64,{_string(source.get('data'), f'{at}.source.data')}"
    raise Inexpressible(f"{at}.source", f"an image that lies with the provider {_NOT_HERE}")


def _document(block: Json, at: str) -> str:
    """Plain text only, under its title. A document that is to be cited cannot be."""
    source = _object(block.get("source"), f"{at}.source")
    cited = _object(block.get("citations") or {}, f"{at}.citations")
    if source.get("type") != "text" or cited.get("enabled"):
        raise Inexpressible(at, f"a document other than plain text, or with citations, {_NOT_HERE}")
    named = [block[name] for name in ("title", "context") if isinstance(block.get(name), str)]
    return "\n\n".join([*named, _string(source.get("data"), f"{at}.source.data")])


def _tool_result(block: Json, at: str) -> Json:
    text = _texts(block.get("content") or "", f"{at}.content")
    if block.get("is_error"):
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}


def _assistant(content: Any, at: str) -> Json:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts, calls = list[str](), list[Json]()
    for index, block in enumerate(_list(content, f"{at}.content")):
        inside = f"{at}.content.{index}"
        match _object(block, inside).get("type"):
            case "text":
                texts.append(_string(block.get("text"), f"{inside}.text"))
            case "tool_use":
                calls.append(_tool_use(block))
            case kind if kind not in _THINKING:
                raise Inexpressible(inside, f"a block of this type {_NOT_HERE}")
    message: Json = {"role": "assistant", "content": "".join(texts) or None}
    return message | {"tool_calls": calls} if calls else message


def _tool_use(block: Json) -> Json:
    arguments = orjson.dumps(block.get("input") or {}).decode()
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}


def _texts(value: Any, at: str) -> str:
    if isinstance(value, str):
        return value
    texts = []
    for index, block in enumerate(_list(value, at)):
        if _object(block, f"{at}.{index}").get("type") != "text":
            raise Inexpressible(f"{at}.{index}", f"anything but text {_NOT_HERE}")
        texts.append(_string(block.get("text"), f"{at}.{index}.text"))
    return "\n".join(texts)


def _list(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise Inexpressible(at, "must be a list")
    return value


def _object(value: Any, at: str) -> Json:
    if not isinstance(value, dict):
        raise Inexpressible(at, "must be an object")
    return value


def _string(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise Inexpressible(at, "must be a string")
    return value
