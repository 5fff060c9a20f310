"""Build `nouns.txt`: nouns of public-domain books, to ask about things of any spelling.

    python -m training.pocket.nouns --data ../shared/data/pretrain

With tables of relations alone the model learns those nouns, and breaks others on the first rare
piece ("apprentice" becomes "a testice"). Words that the held-out tables use are left out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter
from pathlib import Path

from engrain.data import facts_heldout
from training.pocket import development

OUT = Path("src/engrain/data/general/nouns.txt")
_NOUN = re.compile(
    r"\b(?:the|a|an|my|his|her|your|their|our)\s+([a-z]{4,13})"
    r"(?=\s+(?:was|is|of|in|on|at|and|to|had|with|for|that|which|from)\b|[.,;!?])"
)
_ENDINGS = ("ing", "ed", "ly", "s", "est")
_UNWANTED = frozenset(  # old books use words that no example of ours should
    "bosom breast cock corpse devil gipsy heathen idiot murder murderer orgy redskin slave slut"
    " squaw suicide".split()
)


def heldout_words() -> frozenset[str]:
    """Every word of the relations and owners that are kept out of training."""
    kept_out = (facts_heldout, development)
    text = " ".join(f"{half.ATTRIBUTES} {half.OWNERS} {half.VERBS}" for half in kept_out)
    return frozenset(re.findall(r"[a-z]+", text.lower()))


def main() -> None:
    """Write the list, sorted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    with gzip.open(arguments.data / "books.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            counts.update(_NOUN.findall(json.loads(line)["text"]))
    left_out = heldout_words() | _UNWANTED
    words = sorted(word for word in counts if word not in left_out and not word.endswith(_ENDINGS))
    OUT.write_text("\n".join(words) + "\n", encoding="utf-8")
    print(f"{len(words)} nouns in {OUT}")


if __name__ == "__main__":
    main()
