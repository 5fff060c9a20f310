import math
from pathlib import Path

import numpy as np
import pytest

from engrain.exam import plots
from engrain.exam.life import mean_matrix, recall_by_day
from engrain.exam.metrics import AccuracyMatrix

PNG = b"\x89PNG\r\n\x1a\n"


def matrix(lessons: int, names: list[str] | None = None) -> AccuracyMatrix:
    values = np.tri(lessons + 1, lessons, -1)
    values[-1, 0] = math.nan
    return AccuracyMatrix(values, names or [])


@pytest.mark.parametrize("lessons", [1, 3, 25])
def test_the_matrix_is_drawn(tmp_path: Path, lessons: int) -> None:
    path = plots.plot_matrix(matrix(lessons), tmp_path / "new/folder/matrix.png")
    assert path.read_bytes().startswith(PNG)


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    first = plots.plot_matrix(matrix(3, ["a", "b", "a very long name"]), tmp_path / "1.png")
    again = plots.plot_matrix(matrix(3, ["a", "b", "a very long name"]), tmp_path / "2.png")
    assert first.read_bytes() == again.read_bytes()


def test_recipes_are_drawn(tmp_path: Path) -> None:
    curves = {
        "default": [[1.0, 1.0, 0.9], [1.0, 0.9, 0.9]],
        "naive-lora": [[1.0, 0.5, 0.2]],
        "my-own": [[1.0, math.nan, 0.2]],
        "empty": [],
    }
    path = plots.plot_recipes(curves, tmp_path / "recipes.png", bar=0.9)
    assert path.read_bytes().startswith(PNG)
    assert plots.plot_recipes({}, tmp_path / "none.png").is_file()


def test_curves_come_from_matrices() -> None:
    one, two = matrix(3), matrix(3)
    assert recall_by_day([one, two]) == [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    assert mean_matrix([one, two]).to_dict() == one.to_dict()
    with pytest.raises(ValueError, match="shapes"):
        mean_matrix([one, matrix(2)])
