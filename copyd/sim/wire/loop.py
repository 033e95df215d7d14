"""An asyncio event loop without sockets, threads or wall clock: its time jumps to the next timer when nothing is left to do.

Which of several woken tasks runs first is drawn from the seed; everything else keeps the order asyncio promises.
"""

from __future__ import annotations

import asyncio
import heapq
import socket
from asyncio import futures
from collections.abc import Callable, Coroutine
from typing import Any

from copyd.errors import BrokenInvariant

#: The loop's time at the start of every run: not zero, so that "never" and "now" differ.
START_S = 1_000.0
#: What asyncio schedules to make a task run.
TASK_CALLBACKS = frozenset({"TaskStepMethWrapper", "TaskWakeupMethWrapper"})


class Stuck(BrokenInvariant):
    """Nothing will ever happen again, or the world does not come to rest."""


class Task(asyncio.Task[Any]):
    """A task whose place in a set follows from its number, not from its address: sets of tasks are cancelled one by one."""

    def __init__(self, number: int, coro: Any, **kwargs: Any) -> None:
        self.number = number
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop(asyncio.BaseEventLoop):
    """``network`` makes and accepts connections; ``pick(n)`` draws which of n woken tasks is next, None: as they came."""

    def __init__(self, pick: Callable[[int], int] | None = None, steps_max: int = 2_000_000) -> None:
        super().__init__()
        self.network: Any = None
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._made = 0
        self.steps = 0
        self.steps_max = steps_max
        self.reordered = 0
        #: (step, what to do then): between two callbacks, wherever that is.
        self.interrupt: tuple[int, Callable[[], None]] | None = None
        self._pick = pick
        self._now = START_S
        self._sleepers: dict[asyncio.Task[Any], Any] = {}
        self.set_task_factory(self._numbered)

    def time(self) -> float:
        return self._now

    def stall(self, seconds: float) -> None:
        """The process does not turn for so long: everything that fell due meanwhile is late, and comes at once."""
        self._now += seconds

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Every task that has not ended, oldest first."""
        return sorted(asyncio.all_tasks(self), key=lambda task: getattr(task, "number", 0))

    # -- one turn -------------------------------------------------------------------------------------------------------
    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, timer))
        return timer

    def _run_once(self) -> None:
        timers = self._timers
        ready: Any = self._ready  # type: ignore[attr-defined]
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not ready:
            if not timers:
                raise Stuck("nothing is scheduled any more")
            if timers[0][0] > self._now:
                self._now = timers[0][0]
        now = self._now
        while timers and timers[0][0] <= now:
            handle = heapq.heappop(timers)[2]
            if not handle._cancelled:
                ready.append(handle)
        if len(ready) == 1:
            turn = [ready.popleft()]
        else:
            turn = list(ready)
            ready.clear()
            if self._pick is not None:
                self._shuffle(turn)
        for handle in turn:
            if not handle._cancelled:
                self.steps += 1
                handle._run()
                if self.interrupt is not None and self.steps >= self.interrupt[0]:
                    action, self.interrupt = self.interrupt[1], None
                    action()
        if self.steps > self.steps_max:
            raise Stuck(f"no rest after {self.steps} steps, {self._now - START_S:.1f} s")

    def _shuffle(self, turn: list[Any]) -> None:
        """Woken tasks change places among themselves; protocol callbacks keep theirs."""
        places = [at for at, handle in enumerate(turn) if type(handle._callback).__name__ in TASK_CALLBACKS
                  or getattr(handle._callback, "__name__", "") == "TaskWakeupMethWrapper"]
        pick = self._pick
        assert pick is not None
        for n in range(len(places) - 1, 0, -1):
            other = pick(n + 1)
            if other != n:
                a, b = places[n], places[other]
                turn[a], turn[b] = turn[b], turn[a]
                self.reordered += 1

    # -- what a selector loop would do ----------------------------------------------------------------------------------
    def _write_to_self(self) -> None:
        pass

    def _process_events(self, event_list: Any) -> None:
        pass

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise Stuck(f"a thread was asked for: {func!r}")

    async def getaddrinfo(self, host: Any, port: Any, **kwargs: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **kwargs: Any) -> Any:
        return await self.network.connect(protocol_factory, host, port)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **kwargs: Any) -> Any:
        return self.network.listen(protocol_factory, host, port)

    # -- a library that reads the wall clock ----------------------------------------------------------------------------
    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        """As always; the WebSocket library's idle timer is noted, because it measures silence by the machine's clock."""
        task = super().create_task(coro, **kwargs)
        transport = self.network.delivering if self.network is not None else None
        if transport is not None and getattr(coro, "__name__", "") == "_auto_ping_loop":
            self._sleepers[task] = transport
            task.add_done_callback(self._sleepers.pop)
        return task

    def _numbered(self, loop: Any, coro: Any, **kwargs: Any) -> Task:
        self._made += 1
        return Task(self._made, coro, loop=loop, **kwargs)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Any = None,
    ) -> asyncio.TimerHandle:
        if callback is futures._set_result_unless_cancelled and self._sleepers:  # type: ignore[attr-defined]
            transport = self._sleepers.get(asyncio.current_task(self))  # type: ignore[arg-type]
            if transport is not None and delay != int(delay):
                # "Idle for so long since the last byte", in real seconds that have not passed: the same in ours.
                idle = next(whole for whole in (20.0, 60.0, 3600.0) if delay <= whole)
                delay = max(0.0, transport.heard_at + idle - self._now)
        return super().call_later(delay, callback, *args, context=context)
