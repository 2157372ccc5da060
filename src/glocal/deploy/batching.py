"""Computing single requests together: requests that arrive while a batch is computed form the next batch."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class BusyError(RuntimeError):
    """The queue is full."""


class Batcher:
    """Computes items from many callers in batches, one batch at a time, in a thread.

    Args:
        compute: turns a list of items into a sequence with a result for each item.
        max_size: largest number of items in a batch.
        max_wait: seconds for which an idle batcher waits for a second item after the first.
        max_queue: largest number of items that wait or are computed at a time.
        observe: called with the size of every batch.
    """

    def __init__(
        self,
        compute: Callable[[list], Sequence],
        max_size: int,
        max_wait: float,
        max_queue: int,
        observe: Callable[[int], None] = lambda size: None,
    ):
        self._compute = compute
        self._max_size = max_size
        self._max_wait = max_wait
        self._max_queue = max_queue
        self._observe = observe
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "glocal-batch")
        self._worker: asyncio.Task | None = None
        self._closed = False
        self.accepted = 0

    def start(self) -> None:
        self._worker = asyncio.get_running_loop().create_task(self._work())

    @property
    def works(self) -> bool:
        """Whether the worker that computes the items is running."""
        return self._worker is not None and not self._worker.done()

    async def close(self) -> None:
        """Wait until all accepted items are released and all submitted items are computed; then stop."""
        while self.accepted:
            await asyncio.sleep(0.01)
        await self._queue.join()
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    def accept(self, count: int) -> None:
        """Reserve places in the queue for `count` items, until `release`; BusyError if the queue is too full."""
        if self.accepted + count > self._max_queue:
            raise BusyError(f"{self.accepted} images are waiting, no more than {self._max_queue} may")
        self.accepted += count

    def release(self, count: int) -> None:
        self.accepted -= count

    async def submit(self, item: Any) -> Any:
        """The result for one item; RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the batcher is closed")
        result = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((item, result))
        return await result

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            wanted = [
                (item, result) for item, result in batch if not result.cancelled()
            ]  # the others' callers have gone
            try:
                if wanted:
                    self._observe(len(wanted))
                    results = await loop.run_in_executor(self._thread, self._computed, [item for item, _ in wanted])
                    for (_, waiting), result in zip(wanted, results, strict=True):
                        if not waiting.done():
                            waiting.set_result(result)
            except Exception as error:  # the callers get the error, and the worker goes on
                for _, waiting in wanted:
                    if not waiting.done():
                        waiting.set_exception(error)
            finally:
                for _ in batch:
                    self._queue.task_done()

    def _computed(self, items: list) -> Sequence:
        try:
            return self._compute(items)
        except StopIteration as error:  # a future cannot hold a StopIteration, and all callers would wait
            raise RuntimeError("the computation gave too few results") from error

    async def _next_batch(self) -> list[tuple[Any, asyncio.Future]]:
        batch = [await self._queue.get()]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._max_wait
        while len(batch) < self._max_size:
            if not self._queue.empty():
                batch.append(self._queue.get_nowait())
                continue
            if len(batch) > 1 or (left := deadline - loop.time()) <= 0:
                break  # only a single item waits for a second item
            coming = asyncio.ensure_future(self._queue.get())
            await asyncio.wait({coming}, timeout=left)
            if not coming.done():
                coming.cancel()
                break
            batch.append(coming.result())
        return batch
