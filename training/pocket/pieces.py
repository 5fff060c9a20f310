"""Build `pieces.txt`: tokens of letters only, from which words of any pieces are put together.

    python -m training.pocket.pieces --tokenizer src/engrain/model/pocket

A word breaks where one of its pieces is rare ("psychologist" is "p" and "sychologist"): copying has
to work for pieces in any order, and lists of real words hold few of those orders. A line that
begins with "_" can begin a word.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

OUT = Path(__file__).parent / "pieces.txt"
_WORD_START = "Ġ"
_LONGEST_START, _LONGEST = 6, 11


def main() -> None:
    """Write the list, sorted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    arguments = parser.parse_args()
    record = json.loads((arguments.tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    found = []
    for token in record["model"]["vocab"]:
        text = token.removeprefix(_WORD_START)
        if not (text.isascii() and text.isalpha() and text.islower()):
            continue
        if token.startswith(_WORD_START) and len(text) <= _LONGEST_START:
            found.append("_" + text)
        elif not token.startswith(_WORD_START) and 2 <= len(text) <= _LONGEST:
            found.append(text)
    OUT.write_text("\n".join(sorted(found)) + "\n", encoding="utf-8")
    print(f"{len(found)} pieces in {OUT}")


if __name__ == "__main__":
    main()
