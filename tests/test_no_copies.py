"""No run of eight lines of code stands twice in the package."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

RUN = 8


def code_lines(source: str) -> list[tuple[int, str]]:
    """(number, stripped text) of each line that is code: no blank, comment, docstring or import."""
    passed = set()
    for node in ast.walk(ast.parse(source)):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if text or isinstance(node, ast.Import | ast.ImportFrom):
            passed.update(range(node.lineno, node.end_lineno + 1))
    lines = ((number, line.strip()) for number, line in enumerate(source.splitlines(), start=1))
    return [(n, line) for n, line in lines if n not in passed and line and not line.startswith("#")]


def copies(files: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Places of every run that stands more than once in the (name, source) pairs."""
    seen = defaultdict(list)
    for name, source in files:
        code = code_lines(source)
        for i in range(len(code) - RUN + 1):
            seen["\n".join(line for _, line in code[i : i + RUN])].append(f"{name}:{code[i][0]}")
    return [where for where in seen.values() if len(where) > 1]


def test_nothing_is_copied(root: Path) -> None:
    files = [(str(p.relative_to(root)), p.read_text("utf-8")) for p in sorted((root / "rd").rglob("*.py"))]
    found = copies(files)
    assert not found, found


def test_a_copy_is_found_and_shorter_runs_are_not() -> None:
    body = "".join(f"    x{i} = {i}\n" for i in range(RUN - 1))
    first, second = f'def f():\n    """One."""\n{body}', f'def f():\n    """Two."""\n\n    # moved\n{body}'
    assert copies([("a.py", first), ("b.py", second)]) == [["a.py:1", "b.py:1"]]
    assert copies([("a.py", first), ("b.py", second.replace("def f", "def g"))]) == []
