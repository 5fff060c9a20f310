"""What the documentation shows must be true of the code."""

import gzip
import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engrain.config import resolve
from engrain.data.lessons import Probe
from engrain.data.messages import Conversation
from engrain.learn import recipe, registry
from engrain.learn.learner import Learner
from engrain.learn.technique import CATEGORIES
from engrain.learn.testing import check_technique, recipe_with, sample_lesson
from engrain.model.testing import tiny_model

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [
        (str(page.relative_to(ROOT)), block)
        for page in PAGES
        for block in fence.findall(page.read_text(encoding="utf-8"))
    ]


def block(page: str, language: str, index: int = 0) -> str:
    return [text for name, text in blocks(language) if name == page][index]


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_configuration_shown_is_configuration_taken(page: str, text: str, tmp_path: Path) -> None:
    tree = tomllib.loads(text)
    if "project" in tree:
        assert "engrain.techniques" in tree["project"]["entry-points"]
        return
    (tmp_path / "engrain.toml").write_text(text)
    found = resolve(tmp_path, environ={}, folder=tmp_path)
    assert found.origins
    if found.config.learn.settings:
        changed = recipe.named("default").with_settings(found.config.learn.settings)
        assert changed.digest != recipe.named("default").digest


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_python_shown_compiles(page: str, text: str) -> None:
    assert compile(text, page, "exec")


def test_the_conversation_of_the_tutorial_is_one() -> None:
    record = json.loads(block("docs/tutorial/first-lesson.md", "json"))
    assert len(Conversation.from_messages(record["messages"])) == 4


def test_the_stream_shown_is_a_stream() -> None:
    day = json.loads(block("docs/reference/files.md", "json"))
    assert set(day) == {"id", "conversations", "probes", "supersedes"}
    Conversation.from_messages(day["conversations"][0]["messages"])
    assert Probe.from_dict(day["probes"][0]).to_dict() == day["probes"][0]


@pytest.fixture
def shown_technique(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "l2_anchor.py"
    path.write_text(block("docs/how-to/add-a-technique.md", "python"))
    spec = importlib.util.spec_from_file_location("l2_anchor", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["l2_anchor"] = module
    spec.loader.exec_module(module)
    yield "l2_anchor"
    del sys.modules["l2_anchor"], registry._techniques["regularization"]["l2_anchor"]


def test_the_technique_shown_passes_the_conformance_suite(shown_technique: str) -> None:
    assert check_technique("regularization", shown_technique)
    mixed = block("docs/how-to/add-a-technique.md", "python", 3)
    names: dict[str, object] = {}
    exec(compile(mixed, "add-a-technique.md", "exec"), names)
    assert [choice.name for choice in names["recipe"].regularization] == ["kl_anchor", "l2_anchor"]


def test_the_rule_shown_holds_half_of_the_parameters_in_each_step() -> None:
    names: dict[str, Any] = {"__name__": "every_second"}
    try:
        exec(compile(block("docs/how-to/add-a-technique.md", "python", 2), "rule", "exec"), names)
        rule = registry.build("optimization", "every_second")
        for name in ("model.a", "model.b"):
            moves = [rule.moves(name, step) for step in range(4)]
            assert moves in ([True, False] * 2, [False, True] * 2)
        result = Learner(recipe_with("optimization", "every_second")).run(
            tiny_model("llama"), sample_lesson()
        )
        assert result.steps == 6
    finally:
        registry._techniques["optimization"].pop("every_second", None)


def test_every_source_of_the_panel_is_attributed_with_its_licence() -> None:
    folder = ROOT / "src" / "engrain" / "exam" / "panels"
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    panels = [json.loads(gzip.decompress(path.read_bytes())) for path in folder.glob("*.json.gz")]
    assert panels
    for source in (source for panel in panels for source in panel["sources"]):
        if source["name"] != "engrain":
            assert f"- {source['title']}, {source['licence']}." in notice


def generator() -> object:
    pytest.importorskip("mkdocs", reason="the pages are made with the extra 'docs'")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_technique_has_a_page_with_its_settings() -> None:
    generate = generator()
    overview, categories = generate.techniques(), generate.by_category()
    for category in CATEGORIES:
        for name in registry.names(category):
            page = generate.technique_page(category, name)
            assert f"[{name}]" in overview and f"[{name}]" in categories
            if category == "optimization":
                assert generate.memory_of(registry.get(category, name)), name
            assert page.startswith(f"# {name}\n")
            for setting in registry.get(category, name).Config.__dataclass_fields__:
                assert f"`{setting}`" in page


def test_markers_are_filled() -> None:
    generate = generator()
    used = {marker for page in PAGES for marker in generate.MARKER.findall(page.read_text("utf-8"))}
    assert used == set(generate.GENERATORS)
    filled = generate.on_page_markdown("before\n<!-- generated: settings -->\nafter")
    assert "`min_recall`" in filled
    assert filled.startswith("before\n")
    assert filled.endswith("\nafter")


def test_measured_figures_stand_on_the_techniques_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = generator()
    monkeypatch.setattr(generate, "RESULTS", tmp_path)
    assert generate.measured() == generate.lived() == "Not measured yet."
    assert generate.lived_to_best() == "Not measured yet."
    assert generate.figures_of("lion") == []
    gap = {"mean": -0.25, "count": 3, "interval": {"low": -0.5, "high": -0.125}}
    row = {
        "name": "lion",
        "kind": "optimization",
        "memory": {"state_bytes_per_number": 4.0},
        "time": {"step_ratio": 1.234567},
        "book": {
            "rate": 2e-4,
            "figures": {"loss": {"mean": 4.5, "count": 3}},
            "difference": {"loss": gap},
        },
    }
    (tmp_path / generate.MEASURED).write_text(json.dumps({"rows": [row]}), encoding="utf-8")
    figures = {key: {"mean": 0.5, "count": 3} for _, key in generate.LONGER}
    facts = {"rate": 2e-4, "seeds": [0, 1, 2], "figures": figures, "difference": {}}
    half = {**facts, "rate": 1e-4, "difference": {"forgetting": gap}}
    best = {"rate": 1e-4, "difference": {key: gap for _, key in generate.LONGER}}
    row = {**row, "facts": {**facts, "beside": [half], "to_best": best}}
    (tmp_path / generate.LIVED).write_text(json.dumps({"rows": [row]}), encoding="utf-8")
    generate.measurements.cache_clear()
    page = generate.technique_page("optimization", "lion")
    assert "| loss on a book | 4.500 (3 seeds) |" in page
    assert "| loss on a book, difference to `adamw` | -0.250 [-0.500, -0.125] (3 seeds) |" in page
    assert "| a step against fused AdamW's | 1.23 |" in page
    assert "recall of facts" not in page
    assert "| sixty facts: recall | 0.500 (3 seeds) |" in page
    last = generate.measured().splitlines()[-1]
    assert last.startswith("| [lion](../techniques/optimization/lion.md) | 4 |")
    _, _, first, last = generate.lived().splitlines()
    assert first == (
        "| [lion](../techniques/optimization/lion.md), 0.5 times its rate | 3 | 0.5 | 0.5 "
        "| 0.5; -0.250 [-0.500, -0.125] | 0.5 |"
    )
    assert last.startswith("| [lion](../techniques/optimization/lion.md) | 3 | 0.5 |")
    assert generate.lived_to_best().endswith("| -0.250 [-0.500, -0.125] |")
    generate.measurements.cache_clear()


COMMAND = re.compile(r"^(?:\$ )?engrain ([^#\n]*)", re.MULTILINE)


@pytest.mark.parametrize(
    "line", sorted({line.strip() for _, text in blocks("sh") for line in COMMAND.findall(text)})
)
def test_commands_shown_exist_with_their_options(line: str) -> None:
    from typer.main import get_command

    from engrain.cli import app

    command = get_command(app)
    options = {"--help"}
    words = line.split()
    while words and words[0] in getattr(command, "commands", {}):
        options |= {name for option in command.params for name in option.opts}
        command = command.commands[words.pop(0)]
    options |= {name for option in command.params for name in option.opts}
    assert not getattr(command, "commands", {}) or words == ["--help"]
    assert {word for word in words if word.startswith("--")} <= options
