"""`gristmill demo`: the whole way on this machine, from a question to a signed webhook, and nothing left behind."""

import asyncio
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr
from rich.console import Console

from gristmill.cli import local_model, remote
from gristmill.cli.local_model import LocalModel
from gristmill.cli.questions import INSTRUCTIONS, QUESTIONS
from gristmill.cli.receiver import Receiver
from gristmill.cli.refusal import Refusal
from gristmill.cli.serve import Ready, serve
from gristmill.cli.show import results_table
from gristmill.settings import Settings

_MAX_TOKENS = 32
_WIDTH = 110  # where the output is no terminal
_WEBHOOK_SECONDS = 20.0


async def demo(settings: Settings, *, leave_running: bool) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        model = stack.enter_context(_model(settings, folder, console))
        receiver = stack.enter_context(Receiver())

        async def ready(server: Ready) -> bool:
            await asyncio.to_thread(_tell, console, server, model, receiver)
            if leave_running:
                _invite(console, server)
            return leave_running

        await serve(_settings(settings, folder, model), with_worker=True, ready=ready)


@contextmanager
def _folder() -> Iterator[Path]:
    """As root, Postgres runs as another user, who has to get through."""
    folder = Path(tempfile.mkdtemp(prefix="gristmill-demo-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _model(settings: Settings, folder: Path, console: Console) -> Iterator[LocalModel | None]:
    """None: the settings name an endpoint."""
    if settings.llm_base_url is not None:
        console.print("Model: the endpoint of GRISTMILL_LLM_BASE_URL.")
        yield None
    elif not local_model.is_installed():
        raise Refusal(
            "no model: set GRISTMILL_LLM_BASE_URL, GRISTMILL_LLM_API_KEY and GRISTMILL_LLM_MODEL to an OpenAI-compatible "
            "endpoint, or run `make demo` in a checkout, which brings a small local one"
        )
    else:
        with LocalModel(folder / "model.log") as model:
            console.print(
                "Model: SmolLM2-135M on this machine. [bold]It is of toy size: it shows the way, not the quality;[/] "
                "set GRISTMILL_LLM_BASE_URL for a real one."
            )
            yield model


def _settings(settings: Settings, folder: Path, model: LocalModel | None) -> Settings:
    """A database, a key and a port of its own. Private addresses are open for this service only: the webhook's
    receiver is on this machine."""
    chosen: dict[str, Any] = {
        "database_url": None,
        "secret_key": None,
        "data_dir": folder,
        "host": "127.0.0.1",
        "port": settings.port if "port" in settings.model_fields_set else 0,
        "public_url": None,
        "api_key": SecretStr(f"gm_demo_{secrets.token_urlsafe(24)}"),
        "allow_private_addresses": True,
        "log_level": "warning",
    }
    if model is not None:
        chosen |= {
            "llm_base_url": model.url,
            "llm_model": local_model.NAME,
            "llm_concurrency": local_model.SLOTS,
        }
    return settings.model_copy(update=chosen)


def _tell(console: Console, server: Ready, model: LocalModel | None, receiver: Receiver) -> None:
    """Raises Refusal if anything is not as it should be."""
    console.print(f"Server: {server.url}, on a Postgres of its own.")
    with remote.Client(server.settings, server.url) as client:
        agent_id = _publish_agent(client)
        console.print(f"Agent: created and published ({agent_id}).")
        batch_id = _create_batch(client, agent_id, receiver)
        console.print(f"Batch: {len(QUESTIONS)} questions ({batch_id}).")
        if not remote.watch(client, batch_id, console):
            raise Refusal("the batch did not complete")
        _check_webhook(console, receiver, batch_id)
        results = list(client.results(batch_id))
    console.print(results_table(results, {f"q{number}": text for number, text in enumerate(QUESTIONS, 1)}))
    _check_answers(results)
    if model is not None:
        _check_model(console, model, results)


def _publish_agent(client: remote.Client) -> str:
    agent = {
        "name": "Teacher",
        "instructions": INSTRUCTIONS,
        "parameters": {"max_tokens": _MAX_TOKENS, "temperature": 0},
    }
    agent_id = str(client.call("POST", "/agents", json=agent)["data"]["id"])
    client.call("POST", f"/agents/{agent_id}/publish")
    return agent_id


def _create_batch(client: remote.Client, agent_id: str, receiver: Receiver) -> str:
    batch = {
        "agent_id": agent_id,
        "name": "demo",
        "requests": [
            {"custom_id": f"q{number}", "message": text} for number, text in enumerate(QUESTIONS, 1)
        ],
        "webhook": {"url": receiver.url, "secret": receiver.secret, "events": ["completed"]},
    }
    return str(client.call("POST", "/batches", json=batch)["data"]["id"])


def _check_webhook(console: Console, receiver: Receiver, batch_id: str) -> None:
    event = receiver.wait(_WEBHOOK_SECONDS)
    if event is None or event["type"] != "batch.completed" or event["data"]["id"] != batch_id:
        raise Refusal("no webhook with a valid signature arrived")
    console.print(f"Webhook: {event['type']} arrived, both signatures are valid ({event['id']}).")


def _check_answers(results: list[dict[str, Any]]) -> None:
    answers = [
        (result["response_content"] or "").strip() for result in results if result["status"] == "success"
    ]
    if len(answers) != len(QUESTIONS) or not all(answers):
        raise Refusal(f"of {len(QUESTIONS)} answers only {sum(map(bool, answers))} have a text")
    if len(set(answers)) != len(answers):
        raise Refusal(f"of {len(answers)} answers only {len(set(answers))} differ")


def _check_model(console: Console, model: LocalModel, results: list[dict[str, Any]]) -> None:
    tokens = sum(result["response_usage"]["total_completion_tokens"] for result in results)
    done, counted = model.completions(), model.tokens()
    if done < len(results) or counted < tokens:
        raise Refusal(
            f"the model recorded {done} completions of {counted} tokens; the results claim {len(results)} of {tokens}"
        )
    console.print(
        f"Model: it recorded {done} completions of {counted} tokens itself; the results add up to {tokens}."
    )


def _invite(console: Console, server: Ready) -> None:
    key = server.settings.api_key
    assert key is not None
    body = orjson.dumps({"processor": "completion", "requests": [
        {"custom_id": "hello", "input": {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}}
    ]}).decode()  # fmt: skip
    console.print("\nThe server goes on. Ctrl-C ends it and removes everything. Try:\n", highlight=False)
    console.print(
        f"curl {server.url}/api/v1/batches -H {shlex.quote('x-api-key: ' + key.get_secret_value())} "
        f"-H 'Content-Type: application/json' -d {shlex.quote(body)}\n",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"Its documentation is at {server.url}/docs; results are at …/api/v1/batches/<id>/results.")
