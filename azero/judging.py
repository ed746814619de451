"""Where a domain's `read` and `judge` run: in the caller's thread, or in threads beside the engine.

A domain of pure, quick Python is judged in the caller's thread: threads would only take turns with the engine. A domain
that waits (for a sandbox in a process of its own, or for a service) says with `judges` how many of its verdicts may be
under way at a time. Each then runs in a thread of its own, and `read` and `judge` must be safe to call from several.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from azero.domains.base import Domain

P = ParamSpec("P")
T = TypeVar("T")


class Inline(Executor):
    """Runs each call at once, in the caller's thread. What a call raises, `submit` raises."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def executor_of(domain: Domain) -> Executor:
    """Return as many threads as the domain's `judges`; the caller's own where it has none, or 0."""
    threads = getattr(domain, "judges", 0)
    return ThreadPoolExecutor(threads, thread_name_prefix="judge") if threads else Inline()
