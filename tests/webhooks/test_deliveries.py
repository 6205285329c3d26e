"""From the outbox to a receiver on a real socket, and back: what is sent, recorded, retried and never told.

Seed 004, rules 29 to 32.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from datetime import UTC, datetime
from uuid import UUID

import openai
import orjson
import pytest
import standardwebhooks
import svix.webhooks

from fakes.receiver import Receiver, bomb, drip, endless, hang, hold, huge_header, raw, reset, status
from gristmill.domain.ids import uuid7
from gristmill.domain.webhooks import Form, Hook, Secrets, Signature, Wire, as_json, binding
from gristmill.net.session import USER_AGENT, HttpSession
from gristmill.settings import Settings
from gristmill.store import deliveries
from gristmill.vault import Vault
from gristmill.webhooks.sender import Post, send
from gristmill.worker.deliveries import Deliveries

TENANT, OTHER = UUID(int=1), UUID(int=2)
AT = datetime(2026, 11, 22, 10, 45, tzinfo=UTC)
SECRET = "whsec_" + base64.b64encode(bytes(range(100, 132))).decode()
SETTINGS = Settings(webhook_timeout_seconds=5)
VAULT = Vault(b"a secret key only for these tests")


@pytest.fixture
async def receiver():
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def http():
    async with HttpSession(allow_private=True) as http:
        yield http


@pytest.fixture
async def sender(database, http):
    sender = Deliveries(database, http, VAULT, SETTINGS)
    yield sender
    await sender.drain(0)


async def queue(
    database,
    url,
    *,
    tenant_id=TENANT,
    secret=SECRET,
    vault=VAULT,
    event="completed",
    batch_id=None,
    webhooks=None,
):
    batch_id = batch_id or uuid7()
    async with database.transaction() as tx:
        happened = deliveries.Happened(
            batch_id=batch_id,
            tenant_id=tenant_id,
            event=event,
            run=1,
            status=event,
            total=100,
            success=98,
            failed=2,
            at=AT,
            webhook_url=url,
            webhook_events=("completed", "failed"),
            webhook_secret=vault.encrypt(secret.encode(), f"webhook:{batch_id}") if secret else None,
            webhooks=webhooks,
        )
        await deliveries.queue(tx, [happened])
    return batch_id


async def listed(database, batch_id, tenant_id=TENANT):
    async with database.connection() as connection:
        [delivery] = await deliveries.list_for_batch(connection, tenant_id, batch_id)
    return delivery


async def make_due(database):
    async with database.connection() as connection:
        await connection.execute("UPDATE delivery SET next_at = now(), leased_until = NULL")


async def work(sender):
    """Until nothing is due and nothing is in flight."""
    while await sender.step():
        pass


# --- what is sent -------------------------------------------------------------------------------------------


async def test_one_delivery_satisfies_every_receiver(database, sender, receiver):
    batch_id = await queue(database, receiver.url)
    await work(sender)
    [request] = receiver.received
    assert (request.method, request.headers["content-type"]) == ("POST", "application/json")
    assert request.headers["user-agent"] == USER_AGENT
    standardwebhooks.Webhook(SECRET).verify(request.body, request.headers)
    svix.webhooks.Webhook(SECRET).verify(request.body, request.headers)
    event = openai.OpenAI(api_key="unused", webhook_secret=SECRET).webhooks.unwrap(
        request.body, request.headers
    )
    assert event.data.id == str(batch_id)
    delivery = await listed(database, batch_id)
    assert (delivery.status, delivery.event_id, delivery.attempts) == ("delivered", event.id, 1)
    assert (delivery.log[0].status_code, delivery.log[0].response) == (200, "")


async def test_a_webhook_of_the_list_is_signed_as_it_wants_and_gets_its_headers(database, sender, receiver):
    batch_id = uuid7()
    secrets = orjson.dumps({"secret": SECRET, "headers": {"Authorization": "Bearer of-the-receiver"}})
    hooks = [
        Hook(
            receiver.url,
            ("completed",),
            (Signature.LLAMACLOUD,),
            VAULT.encrypt(secrets, binding(batch_id, 0)),
        ),
        Hook(
            f"{receiver.url}/bare",
            ("completed",),
            tuple(Signature),
            wire=Wire(Form.FLAT, {"completed": ("done", "OK")}),
        ),
        Hook(
            f"{receiver.url}/all",
            ("completed",),
            tuple(Signature),
            VAULT.encrypt(secrets, binding(batch_id, 2)),
        ),
        Hook(f"{receiver.url}/moved", ("completed",), (), VAULT.encrypt(secrets, binding(batch_id, 2))),
    ]
    await queue(database, None, batch_id=batch_id, webhooks=as_json(hooks))
    await work(sender)
    by_path = {request.path: request for request in receiver.received}
    assert sorted(by_path) == [
        "/hook",
        "/hook/all",
        "/hook/bare",
    ]  # a secret moved to another place does not open
    first, every, bare = by_path["/hook"], by_path["/hook/all"], by_path["/hook/bare"]
    digest = hmac.new(SECRET.encode(), first.body, hashlib.sha256).hexdigest()
    assert first.headers["lc-signature"] == every.headers["lc-signature"] == f"sha256={digest}"
    assert first.headers["authorization"] == every.headers["authorization"] == "Bearer of-the-receiver"
    assert not {"webhook-signature", "x-codeer-signature"} & set(first.headers)
    standardwebhooks.Webhook(SECRET).verify(every.body, every.headers)
    assert "x-codeer-signature" in every.headers
    assert not {"authorization", "lc-signature", "webhook-signature"} & set(bare.headers)
    assert orjson.loads(bare.body)["event_type"] == "done"
    assert first.body == every.body
    assert first.headers["webhook-id"] == every.headers["webhook-id"]


async def test_without_a_secret_nothing_is_signed(database, sender, receiver):
    await queue(database, receiver.url, secret=None)
    await work(sender)
    headers = receiver.received[0].headers
    assert not {"webhook-signature", "x-codeer-signature"} & set(headers)
    assert headers["webhook-timestamp"] == headers["x-codeer-timestamp"]


async def test_every_attempt_sends_the_same_bytes_and_id_with_a_signature_of_its_own_time(
    database, sender, receiver, monkeypatch
):
    batch_id = await queue(database, receiver.url)
    receiver.behave(status(500), reset(), status(503), status(204))
    clock = time.time()
    for ahead in range(4):
        monkeypatch.setattr("gristmill.webhooks.sender.time.time", lambda ahead=ahead: clock + ahead)
        await work(sender)
        await make_due(database)
    assert len({request.body for request in receiver.received}) == 1
    assert len({request.headers["webhook-id"] for request in receiver.received}) == 1
    assert len({request.headers["webhook-signature"] for request in receiver.received}) == 4
    stamps = [int(request.headers["webhook-timestamp"]) for request in receiver.received]
    assert stamps == [int(clock) + ahead for ahead in range(4)]
    delivery = await listed(database, batch_id)
    assert [(one.status_code, one.error) for one in delivery.log] == [
        (500, None),
        (None, "reset"),
        (503, None),
        (204, None),
    ]


# --- what receivers do --------------------------------------------------------------------------------------


def post(url):
    return Post("evt_1", "{}", url)


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (endless(), 200),
        (drip(), 200),
        (bomb(), 200),
        (drip(503), 503),
        (raw(b"HTTP/1.1 204 OK\r\n\r\n"), 204),
    ],
    ids=["1 GB", "1 B at a time", "compressed bomb", "dripping failure", "no body"],
)
async def test_the_status_counts_and_the_body_is_bounded(http, receiver, behaviour, code):
    receiver.behave(behaviour)
    attempt = await send(http, post(receiver.url), 0.5)
    assert (attempt.status_code, attempt.error) == (code, None)
    assert len(attempt.response) <= 2048
    assert attempt.duration_ms < 3000


@pytest.mark.parametrize(
    ("behaviour", "word"),
    [
        (hang(), "unreachable"),
        (drip(headers_too=True), "unreachable"),
        (reset(), "reset"),
        (huge_header(), "reset"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "reset"),
    ],
    ids=["silent", "dripping headers", "reset", "100 MB header", "no http"],
)
async def test_a_receiver_without_a_status_is_one_word(http, receiver, behaviour, word):
    receiver.behave(behaviour)
    attempt = await send(http, post(receiver.url), 0.3)
    assert (attempt.status_code, attempt.error, attempt.response) == (None, word, None)
    assert attempt.duration_ms < 3000


async def test_the_kept_response_is_short_readable_and_storable(database, sender, receiver):
    receiver.behave(status(400, b"\x00\xff\r\n\x1b[31m" + "é".encode() * 4000))
    batch_id = await queue(database, receiver.url)
    await work(sender)
    response = (await listed(database, batch_id)).log[0].response
    assert response.startswith("\ufffd\ufffd\r\n\x1b[31mé")
    assert len(response.encode()) <= 2048 + 6  # the two replaced bytes, and the character that was cut


async def test_what_a_receiver_asks_for_reaches_the_schedule(database, sender, receiver):
    receiver.behave(status(503, Retry_After=4000))
    batch_id = await queue(database, receiver.url)
    await work(sender)
    delivery = await listed(database, batch_id)
    waits = (delivery.next_at - delivery.log[0].sent_at).total_seconds()
    assert waits == pytest.approx(4000, abs=5)


async def test_a_redirect_is_a_failure_and_leads_nowhere(database, sender, receiver):
    async with Receiver() as elsewhere:
        receiver.behave(status(307, Location=elsewhere.url))
        batch_id = await queue(database, receiver.url)
        await work(sender)
        assert elsewhere.accepted == 0
    delivery = await listed(database, batch_id)
    assert (delivery.status, delivery.log[0].status_code) == ("pending", 307)


async def test_a_private_address_is_never_called_and_looks_unreachable(database, receiver):
    async with HttpSession(allow_private=False, ports=frozenset({receiver.port})) as http:
        sender = Deliveries(database, http, VAULT, SETTINGS)
        batches = [
            await queue(database, url)
            for url in (
                receiver.url,
                receiver.url.replace("http:", "https:"),
                f"https://localhost:{receiver.port}/",
            )
        ]
        await work(sender)
        assert receiver.accepted == 0
        for batch_id in batches:
            delivery = await listed(database, batch_id)
            assert (delivery.status, delivery.log[0].error) == ("pending", "unreachable")


# --- the end of a delivery ----------------------------------------------------------------------------------


async def test_410_ends_a_delivery_and_it_can_be_sent_again_with_the_same_id(database, sender, receiver):
    receiver.behave(status(410), status(200))
    batch_id = await queue(database, receiver.url)
    await work(sender)
    dead = await listed(database, batch_id)
    assert (dead.status, dead.attempts, dead.next_at) == ("dead", 1, None)
    async with database.transaction() as tx:
        await deliveries.redeliver(tx, TENANT, dead.id)
    await work(sender)
    first, second = receiver.received
    assert (second.body, second.headers["webhook-id"]) == (first.body, first.headers["webhook-id"])
    assert (await listed(database, batch_id)).status == "delivered"


async def test_a_delivery_that_nobody_accepts_is_dead_after_ten_sends_and_has_ten_more_when_redelivered(
    database, sender, receiver
):
    receiver.behave(status(500))
    batch_id = await queue(database, receiver.url)
    for sends in (10, 20):
        for _ in range(12):
            await work(sender)
            await make_due(database)
        dead = await listed(database, batch_id)
        assert (dead.status, dead.attempts, len(receiver.received)) == ("dead", sends, sends)
        async with database.transaction() as tx:
            await deliveries.redeliver(tx, TENANT, dead.id)
    assert len({request.headers["webhook-id"] for request in receiver.received}) == 1


async def test_a_delivery_nobody_can_decrypt_is_not_sent_unsigned(database, sender, receiver, caplog):
    batch_id = await queue(database, receiver.url, vault=Vault(b"the key before it was changed"))
    await work(sender)
    delivery = await listed(database, batch_id)
    assert (delivery.status, delivery.log[0].error, receiver.accepted) == ("pending", "secret_unreadable", 0)
    assert "another secret key" in str([vars(record) for record in caplog.records])


# --- many at once, and crashes ------------------------------------------------------------------------------


async def test_a_hanging_receiver_delays_no_one_however_much_waits_for_it(database, sender, receiver):
    async with Receiver() as hanging:
        hanging.behave(hang())
        for _ in range(300):
            await queue(database, hanging.url)
        await sender.step()
        await hanging.until(deliveries.MAX_PER_RECEIVER)
        began = time.monotonic()
        await queue(database, receiver.url, tenant_id=OTHER)
        await queue(database, receiver.url)  # the same tenant's other receiver
        while len(receiver.received) < 2:
            assert await sender.step()
        assert time.monotonic() - began < 2
        assert len(hanging.received) == deliveries.MAX_PER_RECEIVER
        await sender.drain(0)


async def test_a_quick_receiver_gets_all_of_its_events_without_a_pause(database, sender, receiver):
    for _ in range(100):
        await queue(database, receiver.url)
    await work(sender)
    assert len({request.headers["webhook-id"] for request in receiver.received}) == 100
    assert receiver.accepted <= deliveries.MAX_PER_RECEIVER


async def test_no_connection_to_the_database_is_held_while_a_receiver_thinks(database, sender, receiver):
    go = asyncio.Event()
    receiver.behave(hold(go))
    for _ in range(deliveries.MAX_PER_RECEIVER):
        await queue(database, receiver.url)
    assert await sender.step() == deliveries.MAX_PER_RECEIVER
    await receiver.until(deliveries.MAX_PER_RECEIVER)
    assert database.pool.get_idle_size() == database.pool.get_size()
    async with database.connection() as connection:
        held = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    assert held == 0
    go.set()
    await work(sender)


async def test_a_sender_that_dies_after_the_receiver_has_it_leaves_a_delivery_that_is_sent_again(
    database, sender, http, receiver
):
    receiver.behave(hang(), status(200))
    batch_id = await queue(database, receiver.url)
    await sender.step()
    await receiver.until(1)
    await sender.drain(0)  # as a kill does: nothing is recorded
    assert (await listed(database, batch_id)).attempts == 0
    second = Deliveries(database, http, VAULT, SETTINGS)
    assert await second.step() == 0  # the lease still holds
    await make_due(database)
    await work(second)
    first, again = receiver.received
    assert (first.body, first.headers["webhook-id"]) == (again.body, again.headers["webhook-id"])
    assert (await listed(database, batch_id)).status == "delivered"


async def test_a_sender_that_comes_back_after_its_lease_has_run_out_changes_nothing(
    database, sender, http, receiver
):
    go = asyncio.Event()
    receiver.behave(hold(go, status(500)), status(200))
    batch_id = await queue(database, receiver.url)
    await sender.step()
    await receiver.until(1)
    await make_due(database)
    await work(Deliveries(database, http, VAULT, SETTINGS))
    go.set()
    await work(sender)
    delivery = await listed(database, batch_id)
    assert (delivery.status, delivery.attempts) == ("delivered", 1)


async def test_draining_lets_what_is_in_flight_end_and_starts_nothing(database, sender, receiver):
    go = asyncio.Event()
    receiver.behave(hold(go))
    batch_id = await queue(database, receiver.url)
    await sender.step()
    await receiver.until(1)
    draining = asyncio.create_task(sender.drain(10))
    await asyncio.sleep(0)
    late = await queue(database, receiver.url)
    assert await sender.step() == 0
    go.set()
    await draining
    assert (await listed(database, batch_id)).status == "delivered"
    assert (await listed(database, late)).attempts == 0


async def test_postgres_going_away_before_the_attempt_is_recorded_costs_a_second_send(
    database, sender, receiver, monkeypatch, caplog
):
    real = deliveries.record

    async def lost(*_):
        raise ConnectionResetError("gone")

    monkeypatch.setattr(deliveries, "record", lost)
    batch_id = await queue(database, receiver.url)
    await work(sender)
    assert "delivery not recorded, will be sent again" in caplog.messages
    monkeypatch.setattr(deliveries, "record", real)
    await make_due(database)
    await work(sender)
    assert len(receiver.received) == 2
    assert (await listed(database, batch_id)).status == "delivered"


# --- secrets ------------------------------------------------------------------------------------------------


async def test_a_secret_is_in_no_log_and_in_no_row(database, sender, receiver, caplog):
    caplog.set_level(logging.DEBUG)
    receiver.behave(status(500), hang(), reset(), status(200))
    path = "https://hooks.example/services/T0KEN"
    await queue(database, path)
    for _ in range(4):
        await queue(database, receiver.url + "?token=hush-hush")
    sender._timeout_seconds = 0.5
    await work(sender)
    logged = str(
        [(record.getMessage(), vars(record)) for record in caplog.records if record.name != "asyncio"]
    )
    raw_secret = SECRET.removeprefix("whsec_")
    for hidden in (SECRET, raw_secret, "hush-hush", "T0KEN"):
        assert hidden not in logged
    async with database.connection() as connection:
        for table in ("event", "delivery", "delivery_attempt"):
            rows = str([tuple(row) for row in await connection.fetch(f"SELECT * FROM {table}")])
            for hidden in (raw_secret, repr(base64.b64decode(raw_secret))[2:-1], SECRET.encode().hex()):
                assert hidden not in rows
    assert SECRET not in repr(Post("evt_1", "{}", path, Secrets(SECRET)))


async def test_the_event_in_the_body_is_what_the_rows_say(database, sender, receiver):
    batch_id = await queue(database, receiver.url, event="failed")
    await work(sender)
    body = orjson.loads(receiver.received[0].body)
    delivery = await listed(database, batch_id)
    assert (body["id"], body["event"]) == (delivery.event_id, f"batch.{delivery.event}")
    assert body["data"]["id"] == str(batch_id)
