"""The compute type: by the processor's flags, unless the configuration says otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engrain.exam import noise
from engrain.model import hardware, threads


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """No test leaves its choice to the others."""
    yield
    hardware.set_compute()


def with_flags(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(hardware, "processor", lambda: ("a processor", frozenset(flags)))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("avx2", "avx512f"), "float32"),
        (("avx512f", "avx512_bf16"), "bfloat16"),
        (("amx_bf16", "amx_tile"), "bfloat16"),
        (("asimd", "bf16"), "bfloat16"),
        ((), "float32"),
    ],
)
def test_flags_choose(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], expected: str
) -> None:
    with_flags(monkeypatch, *flags)
    assert hardware.set_compute() == hardware.compute_type() == expected
    assert hardware.overridden_compute() is None


def test_a_flag_is_a_whole_word(monkeypatch: pytest.MonkeyPatch) -> None:
    with_flags(monkeypatch, "avx512_bf16x")
    assert hardware.default_compute() == "float32"


def test_both_kinds_of_listing_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, flags in (("flags", "avx2 avx512_bf16"), ("Features", "asimd bf16")):
        listing = [("processor", "0"), ("model name", "Some CPU"), (key, flags)]
        monkeypatch.setattr(hardware, "cpuinfo", lambda rows=listing: rows)
        assert hardware.processor.__wrapped__() == ("Some CPU", frozenset(flags.split()))


def test_an_override_wins_and_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with_flags(monkeypatch, "avx2")
    plain, plain_noise = threads.machine_digest(), noise.machine_fingerprint()
    assert "compute" not in threads.machine_fingerprint()
    assert hardware.set_compute("bfloat16") == "bfloat16"
    assert hardware.overridden_compute() == "bfloat16"
    assert threads.machine_fingerprint()["compute"] == "bfloat16"
    assert threads.machine_digest() != plain
    assert noise.noise_key("b", "p", noise.machine_fingerprint()) != noise.noise_key(
        "b", "p", plain_noise
    )
    # Saying what the processor would get anyway changes no key.
    hardware.set_compute("float32")
    assert threads.machine_digest() == plain


def test_unknown_types_are_refused() -> None:
    with pytest.raises(ValueError, match="float16"):
        hardware.set_compute("float16")
