"""Sheets of ``engrain.exam.report`` as Rich tables."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from engrain.exam.report import Sheet

STYLES = {"good": "green", "fair": "yellow", "bad": "red", "": ""}
"""Colour of each mark of a row."""

VERDICT_STYLES = {"accepted": "green", "quarantined": "yellow", "rejected": "bold red"}
"""Colour of each verdict of the gate."""


def table(sheet: Sheet) -> Table:
    """A sheet as a table, first column to the left and numbers to the right."""
    made = Table(
        title=sheet.title or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        caption=Text("\n".join(sheet.notes)) if sheet.notes else None,
        caption_justify="left",
    )
    for i, column in enumerate(sheet.columns):
        made.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for i, row in enumerate(sheet.rows):
        style = STYLES[sheet.marks[i]] if i < len(sheet.marks) else ""
        # Names and answers may hold what Rich would take for markup.
        made.add_row(*(Text(cell) for cell in row), style=style)
    return made


def tables(*sheets: Sheet) -> Group:
    """Several sheets, one below the other."""
    return Group(*(table(sheet) for sheet in sheets))
