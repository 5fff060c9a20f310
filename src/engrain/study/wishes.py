"""Standing wishes: learned by following them, since that is how they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engrain.data.messages import Message
from engrain.exam.probes import fold
from engrain.study import requests
from engrain.study.checks import GAIN, Checks
from engrain.study.claims import Claim
from engrain.study.writer import Writer


@dataclass(frozen=True, slots=True)
class Followed:
    """A wish with requests that it applies to and answers that follow it; ``mark`` is in all."""

    wish: str
    message: int
    pairs: tuple[tuple[str, str], ...]
    mark: str = ""


def follow(
    wishes: Sequence[Claim], writer: Writer, checks: Checks, *, samples: int, turn: int = 21
) -> list[Followed]:
    """Requests for each wish, answered in view of the talk; kept where that changes the answer."""
    view = checks.reader.view
    texts = [requests.FOLLOW.format(wish=claim.value) for claim in wishes]
    lists = writer.write(view, texts, temperature=0.0, turn=turn)
    for sample in range(samples):
        more = writer.write(view, texts, temperature=0.8, turn=turn + 1 + sample)
        lists = [f"{one}\n{other}" for one, other in zip(lists, more, strict=True)]
    found = []
    for claim, text in zip(wishes, lists, strict=True):
        asked = list(dict.fromkeys(request for request, _ in requests.pairs_of(text)))
        answers = checks.reader.answers(asked)
        pairs = [(q, a) for q, a in zip(asked, answers, strict=True) if a]
        gains = checks.reader.gains(pairs)
        kept = [pair for pair, gain in zip(pairs, gains, strict=True) if gain > GAIN]
        if kept:
            plain = checks.reader.engine.generate(
                [[Message("user", q)] for q, _ in kept], max_new_tokens=32, exact=False
            )
            found.append(Followed(claim.value, claim.message, tuple(kept), _mark(kept, plain)))
    return found


def _mark(followed: Sequence[tuple[str, str]], plain: Sequence[str]) -> str:
    """The longest run of words that most following answers hold and no plain answer does."""
    counts: dict[str, int] = {}
    for _, answer in followed:
        words = fold(answer).split()
        runs = {
            " ".join(words[i:j]).strip(".,;:!?'\"")
            for i in range(len(words))
            for j in range(i + 1, min(i + 6, len(words)) + 1)
        }
        for run in runs:
            counts[run] = counts.get(run, 0) + 1
    others = " ".join(fold(text) for text in plain)
    usual = [r for r, n in counts.items() if r and n > 0.7 * len(followed) and r not in others]
    return max(usual, key=lambda run: (counts[run], len(run)), default="")
