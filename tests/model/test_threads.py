"""Threads and the fingerprint of the machine."""

import json
import os

import pytest
import torch

from engrain.model import threads


def test_default_is_within_the_machine() -> None:
    assert 1 <= threads.default_threads() <= (os.cpu_count() or 1)


def test_physical_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = []
    for processor, core in enumerate([0, 1, 0, 1]):
        listing += [("processor", str(processor)), ("physical id", "0"), ("core id", str(core))]
    monkeypatch.setattr(threads, "cpuinfo", lambda: listing)
    assert threads._physical_cores(None) == 2
    assert threads._physical_cores([0, 2]) == 1
    monkeypatch.setattr(threads, "cpuinfo", list)
    assert threads._physical_cores(None) == 0
    assert threads.default_threads() >= 1


def test_fingerprint_records_the_threads() -> None:
    before = torch.get_num_threads()
    try:
        assert threads.set_threads(1) == 1
        one = threads.machine_fingerprint()
        assert one["threads"] == 1 and one["torch"] == torch.__version__
        assert json.loads(json.dumps(one)) == one
        threads.set_threads(2)
        assert threads.machine_digest() != threads.machine_digest(one)
        assert threads.set_threads(None) == threads.default_threads()
        assert threads.set_threads(0) == 1
    finally:
        torch.set_num_threads(before)
