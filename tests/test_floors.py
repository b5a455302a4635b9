"""Imports go down: the list of floors is the architecture document."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FLOORS = [
    {"config", "labels", "errors", "memory", "files", "processes"},
    {"kept", "locks"},
    {"data", "blocks", "checkpoint"},
    {"responder", "step"},
    {"models", "baselines", "prefetch"},
    {"train", "generate", "metrics", "neural_scores"},
    {"annotation", "evaluate_metric", "knowledge", "provenance", "settings", "forms"},
    {"inputs"},
    {"stages"},
    {"run", "tables", "figures", "scores"},
    {"answering", "intent_accuracy", "publish", "readme", "significance"},
    {"evaluation", "paper_tables"},
    {"run_figures"},
    {"llm"},
    {"pipeline", "dynamics"},
    {"chat", "human", "gather", "cases", "dynamics_figures"},
    {"widgets", "report", "case_pages", "reproduce"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}


def faults(part: str, source: str) -> list[str]:
    """What is wrong with the imports of `source`, a file of rd.`part`."""
    if part not in LEVEL:
        return [f"rd.{part} has no floor"]
    found = []
    for node in ast.walk(ast.parse(source)):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            if node.level:
                found.append(f"line {node.lineno}: relative import")
                continue
            modules = [node.module or ""]
        for module in modules:
            top, _, rest = module.partition(".")
            if top != "rd":
                continue
            there = rest.split(".")[0]
            if not there:
                found.append(f"line {node.lineno}: imports rd itself, name the module")
            elif there not in LEVEL:
                found.append(f"line {node.lineno}: rd.{there} has no floor")
            elif there != part and LEVEL[there] >= LEVEL[part]:
                found.append(f"line {node.lineno}: rd.{there} is not below rd.{part}")
    return found


def test_imports_go_down(root: Path) -> None:
    found, seen = [], 0
    for path in sorted((root / "rd").rglob("*.py")):
        inside = path.relative_to(root / "rd")
        if inside.parts[0] in {"__init__.py", "__main__.py"}:
            continue
        seen += 1
        found += [f"rd/{inside}: {fault}" for fault in faults(inside.with_suffix("").parts[0], path.read_text("utf-8"))]
    assert seen > 10
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("part", "source", "wrong"),
    [
        ("blocks", "from rd.data.batch import Batch", "not below"),
        ("data", "import rd.blocks.crf", "not below"),
        ("train", "def f():\n    from rd.metrics import perplexity", "not below"),
        ("models", "from rd.baselines.moel import MoEL", "not below"),
        ("blocks", "from .crf import CRF", "relative"),
        ("run", "from rd import train", "imports rd itself"),
        ("run", "import rd", "imports rd itself"),
        ("attic", "", "no floor"),
        ("run", "from rd.attic import x", "no floor"),
    ],
)
def test_faults_are_found(part: str, source: str, wrong: str) -> None:
    (fault,) = faults(part, source)
    assert wrong in fault


@pytest.mark.parametrize(
    ("part", "source"), [("blocks", "from rd.blocks.crf import CRF"), ("evaluate_metric", "import rd.metrics")]
)
def test_down_and_beside_are_allowed(part: str, source: str) -> None:
    assert faults(part, source) == []


def test_transformers_stays_where_language_models_live(root: Path) -> None:
    """Every other file gets its encoder handed to it, so that tests hand in a random one."""
    users = set()
    for path in (root / "rd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "transformers" for name in names):
                users.add(path.relative_to(root / "rd").as_posix())
    assert [
        user for user in sorted(users) if user not in ("models/bert.py", "neural_scores.py") and "llm" not in user
    ] == []
