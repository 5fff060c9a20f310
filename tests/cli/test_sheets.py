import io

from rich.console import Console

from engrain.cli.sheets import tables
from engrain.exam.report import Sheet


def shown(*sheets: Sheet) -> str:
    console = Console(width=80, color_system=None, record=True, file=io.StringIO())
    console.print(tables(*sheets))
    return console.export_text()


def test_a_sheet_on_a_terminal() -> None:
    note = "It recalls 11 of 12 questions about the new facts (needed: 10)."
    sheet = Sheet("Gate: accepted", ("check", "after"), (("recall", "92%"),), (note,), ("good",))
    text = shown(sheet, sheet)
    assert text.count("Gate: accepted") == 2
    assert "recall" in text
    assert f"  {note}\n" in text


def test_what_a_model_says_is_no_markup() -> None:
    assert "[bold]" in shown(Sheet("", ("a",), (("[bold]",),)))
