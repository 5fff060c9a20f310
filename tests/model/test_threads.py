"""Threads and the fingerprint of the machine."""

import json
import os

import pytest
import torch

from engrain.model import threads


def test_default_is_within_the_machine() -> None:
    assert 1 <= threads.default_threads() <= threads.usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("wished", "chosen"),
    [("3", 3), (" 2,1", 2), ("9", 4), ("", 4), ("0", 4), ("many", 4), (None, 4)],
)
def test_openmps_variable_holds_the_number_down(
    wished: str | None, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if wished is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", wished)
    assert threads.default_threads() == chosen


def test_physical_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = []
    for processor, core in enumerate([0, 1, 0, 1]):
        listing += [("processor", str(processor)), ("physical id", "0"), ("core id", str(core))]
    monkeypatch.setattr(threads, "cpuinfo", lambda: listing)
    assert threads._physical_cores(None) == 2
    assert threads._physical_cores([0, 2]) == 1
    monkeypatch.setattr(threads, "cpuinfo", list)
    assert threads._physical_cores(None) == 0
    assert threads.usable_cores() >= 1


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


def test_a_thread_that_openmp_has_bound_does_not_count_for_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("the system has no affinities")
    parent = os.getppid()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1} if pid == parent else {0})
    monkeypatch.setenv("OMP_PROC_BIND", "false")
    assert threads._affinity() == {0}, "whoever bound it meant all of it"
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    assert threads._affinity() == {0, 1}
