import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))  # tests/helpers.py


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what starts Ray in one process of `make test`: two runs at once would ask for the same room."""
    for item in items:
        if item.get_closest_marker("slow") and item.path.parent in (TESTS, TESTS / "cluster"):
            item.add_marker(pytest.mark.xdist_group("ray"))
