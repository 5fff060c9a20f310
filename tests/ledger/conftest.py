from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engrain.ledger import Ledger
from tests.ledger.ledger_tools import new_home


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with new_home(tmp_path) as opened:
        yield opened
