"""What a caller may send to make, change and publish an agent."""

from typing import Annotated, Any

import orjson
from pydantic import Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

from gristmill.api.schemas import Name, Strict
from gristmill.net import headers as sendable
from gristmill.processors.conversation import RESERVED_PARAMETERS

MAX_PARAMETERS_BYTES = 64 * 1024


class McpServerOptions(Strict):
    """An MCP server by streamable HTTP."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    url: Annotated[str, Field(max_length=2048, description="HTTPS, port 443, a public address")]
    headers: Annotated[
        dict[str, str],
        Field(max_length=32, description="Sent with every call, encrypted at rest, never shown again"),
    ] = Field(default_factory=dict)

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, given: dict[str, str]) -> dict[str, str]:
        for name, value in given.items():
            if not sendable.good_name(name):
                raise PydanticCustomError("header_name", "a header has a name that cannot be sent")
            if not sendable.good_value(value):
                raise PydanticCustomError("header_value", "a header has a value that cannot be sent")
        return given


Instructions = Annotated[str, StringConstraints(max_length=200_000)]
Model = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Servers = Annotated[list[McpServerOptions], Field(max_length=16)]


class _Fields(Strict):
    @field_validator("parameters", check_fields=False)
    @classmethod
    def _pass_through(cls, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        if RESERVED_PARAMETERS & (parameters or {}).keys():
            names = ", ".join(sorted(RESERVED_PARAMETERS))
            raise PydanticCustomError("reserved_parameter", f"these are not for parameters: {names}")
        if len(orjson.dumps(parameters)) > MAX_PARAMETERS_BYTES:
            raise PydanticCustomError("too_large", f"larger than {MAX_PARAMETERS_BYTES} bytes")
        return parameters

    @field_validator("mcp_servers", check_fields=False)
    @classmethod
    def _names_differ(cls, servers: list[McpServerOptions] | None) -> list[McpServerOptions] | None:
        names = [server.name for server in servers or ()]
        if len(set(names)) < len(names):
            raise PydanticCustomError("duplicate_name", "two servers have the same name")
        return servers


class AgentCreate(_Fields):
    name: Name
    model: Model | None = Field(None, description="null: the configured default")
    instructions: Instructions = ""
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Passed to the model's endpoint: temperature, max_tokens, …"
    )
    mcp_servers: Servers = Field(default_factory=list)


class AgentUpdate(_Fields):
    """Only what is given changes. `model: null` goes back to the configured default."""

    name: Name = ""
    model: Model | None = None
    instructions: Instructions = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    mcp_servers: Servers = Field(default_factory=list)


class AgentPublish(Strict):
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(None, description="null: the latest")


AGENT_EXAMPLES = {
    "agent": {
        "value": {
            "name": "Support",
            "model": "gpt-5-mini",
            "instructions": "You answer customers of a shop. Be brief.",
            "parameters": {"temperature": 0.2},
            "mcp_servers": [
                {
                    "name": "orders",
                    "url": "https://tools.example.com/mcp",
                    "headers": {"Authorization": "Bearer your-token"},
                }
            ],
        }
    }
}
