"""How a command is stopped from outside."""

from __future__ import annotations

import signal
from threading import current_thread, main_thread
from typing import Any

INTERRUPTED = 130  # exit status of what was stopped and can go on


class StopSignals:
    """Ctrl-C and SIGTERM. If they `only_ask`, the first sets `asked`, and a second Ctrl-C raises KeyboardInterrupt.
    Otherwise, as while a run starts or waits for nodes, the first raises it.
    """

    def __init__(self, only_ask: bool) -> None:
        self.asked, self.only_ask = False, only_ask

    def __enter__(self) -> StopSignals:
        heard = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()  # no other thread can
        self._before = {s: signal.signal(s, self._ask) for s in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if not self.only_ask or (self.asked and number == signal.SIGINT):
            raise KeyboardInterrupt
        self.asked = True
