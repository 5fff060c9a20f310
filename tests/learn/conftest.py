"""What tests of learning share."""

from collections.abc import Iterator

import pytest

from engrain.model.hardware import set_compute


@pytest.fixture
def fp32() -> Iterator[None]:
    """Last bits stay last bits: in bf16 a step's rounding would be seen in the next gradient."""
    set_compute("float32")
    yield
    set_compute("auto")
