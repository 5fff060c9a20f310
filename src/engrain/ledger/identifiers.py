"""Ids of lessons and jobs: ten characters, sorted by time, easy to read aloud and to type."""

from __future__ import annotations

import secrets
from collections.abc import Collection

from engrain.errors import UnknownNameError

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: no i, l, o or u, so that nothing looks like something else."""
LENGTH = 10
_LIMIT = 32**LENGTH
_RANDOM_BITS = 8
_LOOKALIKES = str.maketrans("ilo", "110")


def new_id(seconds: float, *, after: str = "") -> str:
    """An id for a moment; always greater than ``after``, even if the clock went backwards.

    42 bits of milliseconds (good until the year 2109) and 8 random bits.
    """
    number = (int(seconds * 1000) << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
    if after:
        number = max(number, _decode(after) + 1)
    return _encode(number % _LIMIT)


def resolve(kind: str, name: str, known: Collection[str]) -> str:
    """The one id that a full id or a unique prefix means, whatever its case.

    Raises:
        UnknownNameError: no id begins so, or several do.
    """
    typed = name.strip().lower().translate(_LOOKALIKES)
    matches = sorted(item for item in known if typed and item.startswith(typed))
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UnknownNameError(
            f"single {kind}", name, matches, remedy="Several begin so: type more characters."
        )
    # The random tail of ids makes most of them "near"; what a person mistypes is an end or a
    # letter, so the comparison is left to difflib and only its listing is kept short.
    raise UnknownNameError(kind, name, sorted(known)[-12:], remedy="'last' is the newest.")


def _encode(number: int) -> str:
    digits = []
    for _ in range(LENGTH):
        number, digit = divmod(number, 32)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def _decode(text: str) -> int:
    number = 0
    for character in text:
        number = number * 32 + ALPHABET.index(character)
    return number
