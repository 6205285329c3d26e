"""Large answers take turns; small ones never wait."""

import asyncio

from gristmill.upstream.large import LARGE_BYTES, LargeAnswers


async def test_only_so_many_large_answers_are_read_at_a_time_and_small_ones_pass() -> None:
    answers = LargeAnswers(1)
    grown, end = asyncio.Event(), asyncio.Event()

    async def read_first() -> None:
        async with answers.one() as answer:
            await answer.grown_to(LARGE_BYTES + 1)
            await answer.grown_to(2 * LARGE_BYTES)  # it has its place already
            grown.set()
            await end.wait()

    async def read(size: int) -> None:
        async with answers.one() as answer:
            await answer.grown_to(size)

    first = asyncio.create_task(read_first())
    await grown.wait()
    await read(LARGE_BYTES)
    second = asyncio.create_task(read(LARGE_BYTES + 1))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not second.done()
    end.set()
    await asyncio.gather(first, second)
