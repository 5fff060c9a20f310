import logging
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engrain.data.facts import FactSampler
from engrain.study.secrets import find_secrets, iban_valid, luhn, masked

KEY = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0"  # letters and digits, no real key
SECRETS = [
    ("My key is sk-" + KEY[:32] + ".", "API key"),
    ("Use AKIA" + "ABCDEFGH12345678" + " there", "AWS access key"),
    ("aws_secret_access_key = " + KEY, "AWS secret key"),
    ("token ghp_" + KEY[:36], "GitHub token"),
    ("github_pat_" + KEY[:30], "GitHub token"),
    ("glpat-" + KEY[:20], "GitLab token"),
    ("xoxb-123456789012-" + KEY[:12], "Slack token"),
    ("AIza" + KEY[:35], "Google API key"),
    ("sk_live_" + KEY[:24], "Stripe key"),
    ("hf_" + KEY[:34], "Hugging Face token"),
    ("npm_" + KEY[:36], "npm token"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0." + KEY[:20], "JSON web token"),
    ("Authorization: Bearer " + KEY[:20], "bearer token"),
    ("postgres://admin:tr0ub4dor@db.example.org/x", "password in an address"),
    (
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
        "private key",
    ),
    ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk", "private key"),
    ("My card is 4111 1111 1111 1111, ok?", "card number"),
    ("5555-5555-5555-4444", "card number"),
    ("Send it to DE89 3704 0044 0532 0130 00 please", "bank account (IBAN)"),
    ("gb82west12345698765432", "bank account (IBAN)"),
    ("My number is 536-90-4399.", "social security number"),
    ("My password is hunter22.", "password"),
    ("Mein Passwort für den Router lautet Otter-77!", "password"),
    ("Mi contraseña del banco es Nutria77.", "password"),
    ("Mon mot de passe est loutre77, je crois.", "password"),
    ("the wifi password for the cabin is Zorba-17", "password"),
    ("PWD: qwerty!9", "password"),
    ("my passphrase is correct horse battery staple", "password"),
    ("The API key is 77aa88bb", "password"),
]
HARMLESS = [
    "My passcode for the garage is 4821.",
    "I forgot my password.",
    "My password is not something I share.",
    "The password is too long.",
    "Mein Passwort ist nicht sicher.",
    "La contraseña es muy larga.",
    "Le mot de passe est trop court.",
    "My phone number is 030 1234567.",
    "It costs 4111 euros.",
    "The order number is 4111 1111 1111 1112.",  # wrong check digit
    "0000 0000 0000 0000",
    "DE89 3704 0044 0532 0130 01",  # wrong check digits
    "The date is 2024-05-17 and the time 12:30.",
    "Version 1.2.3.4.5.6.7.8",
    "I like secret gardens and tokens of love.",
    "666-12-1234",
]


@pytest.mark.parametrize(("text", "kind"), SECRETS)
def test_secret_is_found_and_masked(text: str, kind: str) -> None:
    found = find_secrets(text)
    assert kind in [secret.kind for secret in found]
    shown = masked(text, 500)
    assert f"[{kind}]" in shown
    for secret in found:
        value = text[secret.start : secret.end]
        assert value not in shown
        assert value not in repr(found)


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_left_alone(text: str) -> None:
    assert find_secrets(text) == []


def test_mask_comes_before_cutting() -> None:
    text = "x" * 70 + " sk-" + KEY[:32]
    assert KEY[:8] not in masked(text, 80)


def test_secret_is_recognised_however_spaced() -> None:
    (secret,) = find_secrets("card 4111 1111 1111 1111")
    assert secret.within("You said 4111-1111-1111-1111.")
    assert not secret.within("You said 4111.")


def test_luhn_and_iban() -> None:
    assert luhn("79927398713")
    assert not luhn("79927398710")
    assert iban_valid("GB82WEST12345698765432")
    assert not iban_valid("GB82WEST1234569876543")
    assert not iban_valid("XX82WEST12345698765432")


@given(st.text(alphabet="0123456789 -abAB@:/._", max_size=200))
@settings(max_examples=150, deadline=None)
def test_findings_are_ordered_and_apart(text: str) -> None:
    found = find_secrets(text)
    assert all(0 <= s.start < s.end <= len(text) for s in found)
    assert all(a.end <= b.start for a, b in pairwise(found))


@given(st.integers(0, 10**15 - 1))
@settings(max_examples=60, deadline=None)
def test_every_valid_card_number_is_found(number: int) -> None:
    stem = f"4{number:014d}"
    digits = next(f"{stem}{check}" for check in "0123456789" if luhn(f"{stem}{check}"))
    assert [s.kind for s in find_secrets(f"Pay with {digits} now")] == ["card number"]


def test_told_facts_are_no_secrets() -> None:
    """The facts that exams tell must pass curation, or the exam would test the filter."""
    sampler = FactSampler(3)
    for _ in range(300):
        fact = sampler.fact()
        said = fact.statement(sampler.rng)
        assert find_secrets(said) == [], said


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        masked("My password is hunter22.")
    assert caplog.text == ""


def test_long_text_is_quick() -> None:
    text = "eyJ sk- AKIA 1111 2222 password is " * 20_000
    assert len(masked(text)) <= 80
