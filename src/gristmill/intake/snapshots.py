"""What a batch for agents takes with it: the published version of every agent it names, and that its files and
chats exist. Later changes of an agent do not reach it."""

import base64
from uuid import UUID

from gristmill.db import Database
from gristmill.domain.files import readable_by_model
from gristmill.intake.draft import Draft
from gristmill.processors.agent_message import AgentMessageConfig, AgentMessageInput, AgentSnapshot
from gristmill.store import agents, chats, files
from gristmill.store.agents import Version


async def of_agents(
    database: Database,
    tenant_id: UUID,
    default: UUID,
    draft: Draft,
    so_far: AgentMessageConfig | None = None,
) -> AgentMessageConfig | None:
    """The batch's configuration. What it lacks is added to the draft's problems, with every position.

    `so_far`: that of the batch's earlier items. Its agents stay as they are, whatever became of them meanwhile.
    """
    known = {} if so_far is None else so_far.agents
    inputs = [(index, one) for index, one in enumerate(draft.inputs) if isinstance(one, AgentMessageInput)]
    wanted = {default, *(one.agent_id for _, one in inputs if one.agent_id)} - known.keys()
    file_ids = {file_id for _, one in inputs for file_id in one.attached_file_uuids}
    history_ids = {one.history_id for _, one in inputs if one.history_id is not None}
    async with database.engine.connect() as connection:
        published = await agents.published(connection, tenant_id, wanted) if wanted else {}
        known_files = await files.among(connection, tenant_id, file_ids) if file_ids else {}
        known_chats = await chats.among(connection, tenant_id, history_ids) if history_ids else set()
    if default not in known:
        _check_agent(draft, "/agent_id", default, published)
    for index, one in inputs:
        if one.agent_id and one.agent_id not in known:
            _check_agent(draft, draft.input_at(index, "agent_id"), one.agent_id, published)
        if one.history_id is not None and one.history_id not in known_chats:
            draft.wrong(draft.input_at(index, "history_id"), "unknown_chat", "no such chat")
        if one.attached_file_uuids:
            _check_files(draft, index, one, known_files)
    new = {agent_id: _snapshot(version) for agent_id, version in published.items() if version}
    if default not in known and default not in new:
        return None
    return AgentMessageConfig(agent_id=default, agents={**known, **new})


def _check_agent(draft: Draft, at: str, agent_id: UUID, published: dict[UUID, Version | None]) -> None:
    if agent_id not in published:
        draft.wrong(at, "unknown_agent", "no such agent")
    elif published[agent_id] is None:
        draft.wrong(at, "agent_not_published", "the agent has no published version")


def _check_files(draft: Draft, index: int, one: AgentMessageInput, known: dict[UUID, files.File]) -> None:
    for position, file_id in enumerate(one.attached_file_uuids):
        at = draft.input_at(index, "attached_file_uuids", position)
        if file_id not in known:
            draft.wrong(at, "unknown_file", "no such file")
        elif not readable_by_model(known[file_id].media_type):
            draft.wrong(at, "unsupported_file", "only text, PNG, JPEG, GIF and WebP files can be attached")


def _snapshot(version: Version) -> AgentSnapshot:
    sealed = version.mcp_servers
    return AgentSnapshot(
        agent_id=version.agent_id,
        version=version.version,
        name=version.name,
        model=version.model,
        instructions=version.instructions,
        parameters=version.parameters,
        mcp_servers=None if sealed is None else base64.b64encode(sealed).decode(),
    )
