"""Peak memory counts from the reset on."""

import sys

import pytest

from engrain.learn.memory import peak_memory_bytes, reset_peak


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak")
def test_peak_is_of_the_time_since_the_reset() -> None:
    reset_peak()
    before = peak_memory_bytes()
    block = bytearray(80_000_000)
    assert peak_memory_bytes() - before > 60_000_000
    del block
    reset_peak()
    assert peak_memory_bytes() - before < 60_000_000
