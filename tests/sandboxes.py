"""The sandboxes that this machine can have."""

from __future__ import annotations

import pytest

from azero.errors import UserError
from azero.sandbox import Sandbox, sandbox_of


def sandbox_here(name: str) -> Sandbox:
    """The sandbox of that name; the test is skipped where this machine cannot isolate programs in it."""
    try:
        return sandbox_of(name)
    except UserError as e:
        pytest.skip(str(e))
