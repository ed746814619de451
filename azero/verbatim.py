"""Tables for a terminal whose cells are printed as they are, whatever a user or a model wrote."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text


class VerbatimTable(Table):
    """A rich table that takes no string for markup or an emoji code: `[easy]`, `[/x]` and `:bug:` are shown as such."""

    def __init__(self, *headers: str, title: str = "", **options: Any) -> None:
        titled = Text(title, style="table.title") if title else None
        super().__init__(*headers, title=titled, title_justify="left", **options)

    def add_column(self, header: Any = "", *args: Any, **options: Any) -> None:
        super().add_column(_text(header), *args, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_text, cells), **options)


def _text(cell: Any) -> Any:
    return Text(cell) if isinstance(cell, str) else cell
