"""Continues a chat with a published agent: instructions, the chat so far, files, tools over MCP, answer."""

from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

import orjson
from pydantic import BaseModel, Field, StringConstraints, model_validator

from gristmill.domain.outcomes import Failure, ItemError, Outcome, Success, Turn
from gristmill.processors import prompts, refusals
from gristmill.processors.base import Context, Processor
from gristmill.processors.conversation import Conversation
from gristmill.processors.fields import CanonicalUUID
from gristmill.processors.mcp_client import McpServer
from gristmill.processors.refusals import Refused
from gristmill.processors.tools import open_tools, unseal
from gristmill.upstream.client import Upstream

_Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class AgentSnapshot(BaseModel):
    """One published version of an agent, as it was when the batch was made."""

    agent_id: UUID
    version: int
    name: str
    model: str | None = None  # None: GRISTMILL_LLM_MODEL
    instructions: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)  # passed through: temperature, max_tokens, …
    mcp_servers: str | None = (
        None  # base64 of JSON [{name, url, headers}], encrypted, bound to mcp:<agent_id>:<version>
    )


class AgentMessageConfig(BaseModel):
    """Every agent the batch's items name, and the one for those that name none."""

    agent_id: UUID
    agents: dict[UUID, AgentSnapshot]

    @model_validator(mode="after")
    def _default_is_there(self) -> Self:
        if self.agent_id not in self.agents:
            raise ValueError("agents must hold agent_id")
        return self


class AgentMessageInput(BaseModel):
    message: Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
    agent_id: CanonicalUUID | None = None
    external_user_id: _Name | None = None
    name: _Name | None = None
    attached_file_uuids: Annotated[list[CanonicalUUID], Field(default_factory=list, max_length=20)]
    history_id: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = None  # None begins a new chat


class AgentMessage(Processor[AgentMessageInput, AgentMessageConfig]):
    name: ClassVar[str] = "agent_message"
    description: ClassVar[str] = "Continues a conversation with a published agent."
    input_model = AgentMessageInput
    config_model = AgentMessageConfig
    uses_upstream: ClassVar[bool] = True

    def history_id(self, given: AgentMessageInput) -> int | None:
        return given.history_id

    async def run(self, given: AgentMessageInput, context: Context[AgentMessageConfig]) -> Outcome:
        try:
            upstream = refusals.configured(context.services.upstream)
            agent = _agent(given, context.config)
            model = _model(agent, upstream)
            messages = await prompts.messages(
                agent.instructions,
                given.history_id,
                given.message,
                given.attached_file_uuids,
                tenant_id=context.tenant_id,
                services=context.services,
            )
            async with open_tools(_servers(agent, context), context.services.http) as tools:
                conversation = Conversation(upstream, model, agent.parameters, tools, context.idempotency_key)
                outcome = await conversation.answer(messages)
        except Refused as refused:
            return refused.outcome
        return _with_turn(outcome, given, agent)


def _agent(given: AgentMessageInput, config: AgentMessageConfig) -> AgentSnapshot:
    agent = config.agents.get(given.agent_id or config.agent_id)
    if agent is None:
        raise Refused(
            Failure(ItemError(400, "agent_not_found", "The batch holds no agent of this item's agent_id."))
        )
    return agent


def _model(agent: AgentSnapshot, upstream: Upstream) -> str:
    model = agent.model or upstream.model
    if model is None:
        message = "The agent names no model, and none is configured."
        suggestion = "Give the agent a model, or set GRISTMILL_LLM_MODEL."
        raise Refused(Failure(ItemError(500, "model_not_configured", message, suggestion=suggestion)))
    return model


def _servers(agent: AgentSnapshot, context: Context[AgentMessageConfig]) -> list[McpServer]:
    if agent.mcp_servers is None:
        return []
    opened = unseal(agent.mcp_servers, f"mcp:{agent.agent_id}:{agent.version}", context.services.decrypt)
    return [McpServer(**server) for server in orjson.loads(opened)]


def _with_turn(outcome: Outcome, given: AgentMessageInput, agent: AgentSnapshot) -> Outcome:
    if not isinstance(outcome, Success) or outcome.content is None:
        return outcome
    turn = Turn(
        user_message=given.message,
        reply=outcome.content,
        history_id=given.history_id,
        name=given.name,
        external_user_id=given.external_user_id,
        agent_id=agent.agent_id,
        file_ids=tuple(given.attached_file_uuids),
    )
    return Success(outcome.output, outcome.content, outcome.usage, turn)
