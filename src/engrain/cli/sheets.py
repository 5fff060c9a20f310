"""Sheets of ``engrain.exam.report`` as Rich tables."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from engrain.exam.report import Sheet

STYLES = {"good": "green", "fair": "yellow", "bad": "red", "": ""}
"""Colour of each mark of a row."""


def table(sheet: Sheet, *, words: bool = False) -> Table:
    """A sheet without its notes as a table: first column to the left, numbers to the right.

    With ``words`` there are no numbers: every column is to the left.
    """
    made = Table(
        title=sheet.title or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
    )
    for i, column in enumerate(sheet.columns):
        left = words or i == 0
        made.add_column(column, justify="left" if left else "right", overflow="fold")
    for i, row in enumerate(sheet.rows):
        style = STYLES[sheet.marks[i]] if i < len(sheet.marks) else ""
        # Names and answers may hold what Rich would take for markup.
        made.add_row(*(Text(cell) for cell in row), style=style)
    return made


def tables(*sheets: Sheet) -> Group:
    """Several sheets with their notes, one below the other."""
    parts: list[Table | Text] = []
    for sheet in sheets:
        parts.append(table(sheet))
        # Not as the table's caption, which would be folded to the width of the table.
        parts += [Text(f"  {note}") for note in sheet.notes]
    return Group(*parts)
