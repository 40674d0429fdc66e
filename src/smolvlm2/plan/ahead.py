"""Windows packed in the background, so that no step waits for its plan."""

from concurrent.futures import Future, ThreadPoolExecutor

from smolvlm2.plan.packs import Pack
from smolvlm2.plan.plan import Plan, Position


class PlanAhead:
    """A plan whose next windows are packed by a thread; its results are the plan's own.

    Stands in for a `Plan` where steps are taken in order.

    Args:
        plan: What is planned.
        windows: How many are packed ahead of the one in use.
    """

    def __init__(self, plan: Plan, *, windows: int = 2) -> None:
        self.plan = plan
        self._ahead = windows
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plan")
        self._packing: dict[int, Future[list[Pack]]] = {}

    def step(self, position: Position) -> tuple[list[Pack], Position]:
        """See `Plan.step`; waits only when a window is not ready yet."""
        self._request(position.window)
        packs, following = self.plan.step_from(position, self._packs_of_window)
        self._request(following.window)
        return packs, following

    def _packs_of_window(self, number: int) -> list[Pack]:
        self._request(number)
        return self._packing[number].result()

    def _request(self, window: int) -> None:
        end = self.plan.windows
        last = window + self._ahead if end is None else min(window + self._ahead, end - 1)
        for number in range(window, last + 1):
            if number not in self._packing:
                self._packing[number] = self._thread.submit(self.plan.pack, number)
        # A step that spans two windows has taken what it needs of the first.
        for number in [number for number in self._packing if not window <= number <= last]:
            self._packing.pop(number).cancel()

    def close(self) -> None:
        """Stop packing; a window in the works is finished."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "PlanAhead":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
