"""The next step's batches, cut in a thread while this step computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from llmpipe.training.step import Batch


def prefetch(
    make: Callable[[int], Sequence[Batch]], first_step: int, n_steps: int, pin: bool = False
) -> Iterator[Sequence[Batch]]:
    """Give the batches of each step, one step ahead of who asks.

    `make` is a pure function of the step, so nothing has to be remembered for a resumed run.

    Args:
        make: Cuts the batches of one step.
        first_step: Where to begin.
        n_steps: Where to end.
        pin: Put them where a GPU can fetch them by itself.
    """

    def cut(step: int) -> Sequence[Batch]:
        batches = make(step)
        return [batch.pinned() for batch in batches] if pin else batches

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rows") as thread:
        coming = thread.submit(cut, first_step)
        for step in range(first_step, n_steps):
            batches = coming.result()
            if step + 1 < n_steps:
                coming = thread.submit(cut, step + 1)
            yield batches
