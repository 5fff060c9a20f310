"""Killed at any moment: no conversation is lost, and an accepted state is in force."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ledger.ledger_tools import change, fold_digest, learn, open_ledger

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(item or str(ROOT) for item in sys.path)}


def live(folder: Path, seed: int, moments: list[int]) -> str:
    command = [sys.executable, "-m", "tests.ledger.crash_worker", str(folder), str(seed)]
    done = subprocess.run(
        [*command, *map(str, moments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(home: Path) -> None:
    """What must hold after a kill, and that life goes on."""
    told = [json.loads(line) for line in (home / "told").read_text().splitlines()]
    with open_ledger(home / "engrain") as ledger:
        assert ledger.verify(fold_digest) == []
        logged = {entry.digest for entry in ledger.list_conversations()}
        assert {value for kind, value in told if kind == "conversation"} <= logged
        lessons = {entry.id for entry in ledger.list_lessons()}
        assert {value for kind, value in told if kind == "lesson"} <= lessons
        # The state is the last that was acknowledged, or the one that was just being committed.
        states = [(kind, value) for kind, value in told if kind in ("state", "coming")]
        last = max(index for index, (kind, _) in enumerate(states) if kind == "state")
        allowed = [value for _, value in states[last:]]
        assert ledger.current().digest in allowed
        for job in ledger.list_jobs():
            assert job.status in ("interrupted", "committed", "failed")
            for stage in job.stages:
                ledger.stage_payload(job.id, stage.stage)
        ledger.discard_garbage()
        lesson = learn(ledger, 424_242)
        change(ledger, lesson, "undone")
        assert ledger.verify(fold_digest) == []


def test_killed_at_random_moments(tmp_path: Path) -> None:
    for seed, count in ((1, 10), (2, 10)):
        folder = tmp_path / str(seed)
        total = int(live(folder, seed, [0]))
        assert total > 200
        check(folder / "0")
        moments = random.Random(seed).sample(range(1, total), count)
        live(folder, seed, moments)
        for moment in moments:
            check(folder / str(moment))


@pytest.mark.slow
def test_killed_at_many_moments(tmp_path: Path) -> None:
    total = int(live(tmp_path, 3, [0]))
    moments = random.Random(3).sample(range(1, total), 200)
    for start in range(0, len(moments), 50):
        live(tmp_path, 3, moments[start : start + 50])
        for moment in moments[start : start + 50]:
            check(tmp_path / str(moment))


@pytest.mark.slow
def test_killed_by_the_clock(tmp_path: Path) -> None:
    """From outside, so inside of SQLite and of the system's calls as well."""
    choose = random.Random(7)
    for number in range(40):
        folder = tmp_path / str(number)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ledger.crash_worker", str(folder), str(number), "0"],
            cwd=ROOT,
            env=environment(),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
        )
        while not (folder / "0" / "told").exists() or not (folder / "0" / "told").read_text():
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(choose.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # The forked child dies when the kernel comes to it; a busy machine takes its time.
        time.sleep(0.2)
        check(folder / "0")
