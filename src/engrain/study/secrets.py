"""Secrets in text, found by their shape and, where there is one, by their check digits.

A finding carries where the secret stands and what kind it is; the secret itself is only compared,
never printed: every excerpt that leaves this module is masked first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from engrain.study.wording import word_set

EXCERPT_LENGTH = 80
"""Longest excerpt in a report, in characters."""

# Keys of known shapes. The name is what a person reads in a report.
_SHAPES: tuple[tuple[str, str], ...] = (
    (
        "private key",
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[\s\S]*?-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|[\s\S]*)",
    ),
    ("AWS access key", r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}\b"),
    (
        "AWS secret key",
        r"(?i:aws_?secret(?:_?access)?_?key)[\"'\s]{0,3}[:=]\s*[\"']?[A-Za-z0-9/+=]{40}",
    ),
    ("GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,})"),
    ("GitLab token", r"\bglpat-[\w-]{20,}"),
    ("Slack token", r"\bxox[abceoprs]-[A-Za-z0-9-]{10,}|\bxapp-\d-[A-Za-z0-9-]{10,}"),
    ("Slack webhook", r"https://hooks\.slack\.com/(?:services|workflows)/[\w/-]{20,}"),
    ("Google API key", r"\bAIza[\w-]{35}"),
    ("Stripe key", r"\b(?:[sr]k|whsec)_(?:live_|test_)?[A-Za-z0-9]{20,}"),
    ("Hugging Face token", r"\bhf_[A-Za-z0-9]{30,}"),
    ("npm token", r"\bnpm_[A-Za-z0-9]{36}"),
    ("PyPI token", r"\bpypi-[\w-]{30,}"),
    ("SendGrid key", r"\bSG\.[\w-]{16,}\.[\w-]{16,}"),
    ("Twilio key", r"\bSK[0-9a-f]{32}\b"),
    ("Telegram bot token", r"\b\d{8,10}:[A-Za-z0-9_-]{35}(?![\w-])"),
    ("API key", r"\bsk-[A-Za-z0-9_-]{20,}"),
    ("JSON web token", r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"),
    ("bearer token", r"(?i:\bauthorization\b\W{1,4}(?:bearer|basic|token)\s+)[\w.~+/=-]{8,}"),
    ("password in an address", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,64}:[^\s/@]{1,128}@"),
)
_COMPILED = tuple((name, re.compile(pattern)) for name, pattern in _SHAPES)

_CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])")
_IBAN = re.compile(r"\b[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,34}")
_SOCIAL = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\d-])")
_SAID = re.compile(
    r"\b(?:(?P<word>pass(?:word|phrase|wd|wort)s?|pwd|kennwort|contraseña|mot de passe|senha|"
    r"wachtwoord)|(?:api|secret|access|private|encryption|recovery)"
    r"[ _-]?(?:key|token|phrase)|(?:auth|security|bearer)[ _-]?token|client[ _-]?secret)"
    r"(?:\s+(?:for|to|of|on|at|in|für|zum|zur|im|para|del?|pour|du|voor|van)\s+[^.\n?!]{1,40}?)?"
    r"\s*(?:\bis now\b|\b(?:is|was|are|ist|lautet|war|es|era|est|était|é)\b|:=?|=)\s*"
    r"(?P<value>[\"'“‘`]?[^\s,;]{3,}[^\n,;]{0,60})",
    re.IGNORECASE,
)
# What follows "my password is" when no password is told.
_NOT_A_VALUE = word_set(
    "not no never too very so a an the what where when who that this same something "
    "somewhere stored saved kept hard easy long short strong weak safe secret secure wrong "
    "right correct old new expired unknown required needed gone lost different important "
    "there here in on at only still always also just really quite probably called made "
    "written being "
    "nicht kein nie zu sehr ein eine der die das mir schon noch jetzt immer weg falsch richtig alt "
    "neu sicher lang kurz muy tan un una el la lo que ya nueva vieja segura larga corta incorrecta "
    "pas trop très le une du bien sûr court faux bon muito um uma niet te een het"
)

_IBAN_COUNTRIES = word_set(
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 "
    "EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 "
    "IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 "
    "NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SD18 SE24 SI19 SK24 SM27 ST25 SV28 "
    "TL23 TN24 TR26 UA29 VA22 VG24 XK20"
)
# How long an IBAN is, by country (registry of ISO 13616).
_IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _IBAN_COUNTRIES}


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret in a text: its kind and where it stands; what it is stays out of every repr."""

    kind: str
    start: int
    end: int
    compact: str = field(repr=False)

    def within(self, text: str) -> bool:
        """Whether a text repeats the secret, however it is spaced."""
        return len(self.compact) >= 4 and self.compact in _compact(text)


def find_secrets(text: str) -> list[Secret]:
    """All secrets in a text, in the order in which they stand there; none overlap.

    Example:
        >>> [secret.kind for secret in find_secrets("My card is 4111 1111 1111 1111.")]
        ['card number']
    """
    taken: list[Secret] = []
    for kind, start, end, value in sorted(_all(text), key=lambda f: (f[1], -f[2])):
        if not taken or start >= taken[-1].end:
            taken.append(Secret(kind, start, end, _compact(value)))
    return taken


def masked(text: str, length: int = EXCERPT_LENGTH, known: Iterable[Secret] = ()) -> str:
    """An excerpt of a text with each secret replaced by its kind in brackets.

    ``known`` are secrets found elsewhere, which this text may repeat without their context.
    """
    for secret in known:
        if secret.within(text):
            spaced = r"[\s\-]*".join(map(re.escape, secret.compact))
            text = re.sub(spaced, f"[{secret.kind}]", text, flags=re.IGNORECASE)
    parts, at = [], 0
    for secret in find_secrets(text):
        parts += [text[at : secret.start], f"[{secret.kind}]"]
        at = secret.end
    whole = " ".join("".join([*parts, text[at:]]).split())
    return whole if len(whole) <= length else whole[: length - 1].rstrip() + "…"


def luhn(digits: str) -> bool:
    """Whether the last digit is the Luhn check digit of the others."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban_valid(text: str) -> bool:
    """Whether a text without spaces is an IBAN: country, length and check digits."""
    code = text.upper()
    if _IBAN_LENGTHS.get(code[:2]) != len(code) or not code.isalnum() or not code.isascii():
        return False
    return int("".join(str(int(letter, 36)) for letter in code[4:] + code[:4])) % 97 == 1


def _all(text: str) -> Iterator[tuple[str, int, int, str]]:
    for kind, pattern in _COMPILED:
        for found in pattern.finditer(text):
            yield kind, *found.span(), found.group()
    for found in _CARD.finditer(text):
        digits = re.sub(r"\D", "", found.group())
        if digits[0] in "23456" and len(set(digits)) > 1 and luhn(digits):
            yield "card number", *found.span(), digits
    for found in _IBAN.finditer(text):
        end = _iban_end(found.group())
        if end:
            start = found.start()
            yield "bank account (IBAN)", start, start + end, text[start : start + end]
    for found in _SOCIAL.finditer(text):
        yield "social security number", *found.span(), found.group()
    for found in _SAID.finditer(text):
        if value := _told_value(found):
            # The name before the value is no secret: mask and compare the value alone.
            start = found.start("value")
            yield "password", start, start + len(value), value.strip("\"'“”‘’` ")


def _iban_end(text: str) -> int:
    """How many characters of a run that looks like an IBAN are one, 0 if none."""
    wanted = _IBAN_LENGTHS.get(text[:2].upper(), 0)
    count = 0
    for place, character in enumerate(text):
        count += character.isalnum()
        if count == wanted:
            code = re.sub(r"[ -]", "", text[: place + 1])
            return place + 1 if iban_valid(code) else 0
    return 0


def _told_value(found: re.Match[str]) -> str:
    """The value that a statement tells: one word, or all words of a pass phrase; "" if none."""
    value = found.group("value").strip()
    words = value.split()
    first = words[0].strip("\"'“”‘’`.!?)").lower()
    phrase = "phrase" in found.group().lower()
    if phrase and len(words) >= 4:
        return re.split(r"[.!?](?:\s|$)", value)[0]
    if first in _NOT_A_VALUE and len(words[0]) == len(words[0].strip("\"'“‘`")):
        return ""
    if phrase or value[0] in "\"'“‘`":
        return re.split(r"[.!?](?:\s|$)", value)[0]
    return words[0].rstrip(".!?)")


def _compact(text: str) -> str:
    return re.sub(r"[\s\-]+", "", text).casefold()
