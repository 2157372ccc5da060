"""Items of many callers are computed together, each caller gets its own result."""

import asyncio
import threading
import time

import pytest

from glocal.deploy.batching import Batcher, BusyError


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


async def with_batcher(use, compute=lambda items: [10 * item for item in items], **options):
    sizes = []
    options = dict(max_size=4, max_wait=0.0, max_queue=100, observe=sizes.append) | options
    batcher = Batcher(compute, **options)
    batcher.start()
    try:
        return await use(batcher), sizes
    finally:
        await asyncio.wait_for(batcher.close(), 20)


def test_everyone_gets_his_own():
    async def use(batcher):
        return await asyncio.gather(*map(batcher.submit, range(50)))

    results, sizes = run(with_batcher(use))
    assert results == [10 * item for item in range(50)]
    assert sum(sizes) == 50
    assert max(sizes) == 4


def test_those_who_come_meanwhile_are_the_next_batch():
    started, go_on = threading.Event(), threading.Event()

    def compute(items):
        started.set()
        assert go_on.wait(10)
        return items

    async def use(batcher):
        first = asyncio.ensure_future(batcher.submit(0))
        await asyncio.to_thread(started.wait, 10)
        others = [asyncio.ensure_future(batcher.submit(item)) for item in (1, 2, 3)]
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(first, *others)

    results, sizes = run(with_batcher(use, compute))
    assert results == [0, 1, 2, 3]
    assert sizes == [1, 3]


def test_an_idle_batcher_waits_for_more():
    async def use(batcher):
        first = asyncio.ensure_future(batcher.submit(1))
        await asyncio.sleep(0.05)
        return await asyncio.gather(first, batcher.submit(2))

    start = time.monotonic()
    assert run(with_batcher(use, max_wait=20, max_size=2))[1] == [2]
    assert run(with_batcher(use, max_wait=0.2))[1] == [2]
    assert time.monotonic() - start < 10  # not the whole time, once there is company
    assert run(with_batcher(use, max_wait=0.0))[1] == [1, 1]


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError, MemoryError])
def test_an_error_reaches_its_callers_and_nobody_else(error):
    def compute(items):
        if 3 in items:
            raise error("three")
        return items

    async def use(batcher):
        first = await asyncio.gather(*map(batcher.submit, [2, 3]), return_exceptions=True)
        return first, await asyncio.wait_for(batcher.submit(4), 10)

    (first, second), _ = run(with_batcher(use, compute))
    assert ["three" in str(error) for error in first] == [True, True]
    assert second == 4


def test_a_wrong_number_of_results_is_an_error():
    async def use(batcher):
        return await asyncio.gather(*map(batcher.submit, [1, 2]), return_exceptions=True)

    results, _ = run(with_batcher(use, lambda items: items[:1]))
    assert isinstance(results[1], ValueError)


def test_a_computation_that_runs_dry_is_an_error():
    async def use(batcher):
        return await asyncio.wait_for(asyncio.gather(batcher.submit(1), return_exceptions=True), 10)

    results, _ = run(with_batcher(use, lambda items: next(iter([]))))
    assert "too few results" in str(results[0])


def test_callers_who_have_gone_cost_nothing():
    computed = []

    def compute(items):
        time.sleep(0.05)
        computed.extend(items)
        return items

    async def use(batcher):
        first = asyncio.ensure_future(batcher.submit(1))
        await asyncio.sleep(0.01)
        gone = asyncio.ensure_future(batcher.submit(2))
        await asyncio.sleep(0)
        gone.cancel()
        return await asyncio.gather(first, batcher.submit(3))

    assert run(with_batcher(use, compute))[0] == [1, 3]
    assert computed == [1, 3]


def test_room_is_limited_and_handed_back():
    async def use(batcher):
        batcher.accept(3)
        with pytest.raises(BusyError, match="3 images are waiting, no more than 4 may"):
            batcher.accept(2)
        batcher.accept(1)
        batcher.release(4)
        batcher.accept(4)
        batcher.release(4)
        return batcher.accepted

    assert run(with_batcher(use, max_queue=4))[0] == 0


def test_closing_computes_what_was_submitted():
    async def use():
        batcher = Batcher(lambda items: time.sleep(0.02) or items, 1, 0.0, 10)
        batcher.start()
        waiting = [asyncio.ensure_future(batcher.submit(item)) for item in range(5)]
        await asyncio.sleep(0)
        await batcher.close()
        return [future.result() for future in waiting]

    assert run(use()) == list(range(5))


def test_closing_waits_for_what_was_accepted_and_lets_nothing_in():
    async def use():
        batcher = Batcher(lambda items: items, 1, 0.0, 10)
        batcher.start()
        batcher.accept(1)
        closing = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        result = await batcher.submit(7)
        batcher.release(1)
        await closing
        with pytest.raises(RuntimeError, match="the batcher is closed"):
            await batcher.submit(8)
        return result

    assert run(use()) == 7
