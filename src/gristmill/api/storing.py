"""The last step of every create, in whatever words it came: stored whole or not at all, answered once, and then announced."""

from collections.abc import Callable, Sequence

from starlette.responses import Response

from gristmill import metrics
from gristmill.api import create
from gristmill.api.create import Content
from gristmill.api.idempotency import Once
from gristmill.api.parts import Parts
from gristmill.api.sources import FromFile
from gristmill.domain.news import News
from gristmill.store import batches
from gristmill.store.batches import Batch
from gristmill.store.new_batches import NewBatch

New = tuple[NewBatch, Content]


async def stored(of: Parts, news: Sequence[New]) -> list[Batch]:
    """All of them, or none."""
    if not news:
        return []
    async with of.database.transaction() as tx:
        for new, content in news:
            await create.store(tx, new, content)
        made = [await batches.get(tx, new.tenant_id, new.id) for new, _ in news]
    for word in {_told(content) for _, content in news}:
        of.wake(word)
    for one in made:
        metrics.batch_created(one.processor, one.total)
    return made


async def answered(
    of: Parts,
    once: Once,
    new: New,
    answer: Callable[[Batch], Response],
    afterwards: Callable[[], None] | None = None,
) -> Response:
    """What `answer` makes of the batch, or the answer of the create that came before under the same `Idempotency-Key`.

    `answer` needs a Location; what it raises leaves nothing stored. `afterwards` is called if the batch is new."""
    batch, content = new
    with of.bear(batch, content if isinstance(content, list) else ()) as birth:
        async with of.database.transaction(committed=birth.start) as tx:
            if (before := await once.begin(tx)) is not None:
                return before
            await create.store(tx, batch, content)
            made = await batches.get(tx, batch.tenant_id, batch.id)
            told = answer(made)
            await once.keep(tx, told)
            await birth.lease(tx)
    if birth.some_wait:
        of.wake(_told(content))
    if afterwards is not None:
        afterwards()
    metrics.batch_created(made.processor, made.total)
    return told


def _told(content: Content) -> News:
    """Of a batch that was made."""
    return News.FILE if isinstance(content, FromFile) else News.ANY
