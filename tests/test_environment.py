"""requirements.txt, environment.yml and pyproject.toml describe one environment."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OPTIONAL = {"llm"}  # extras that the pinned list leaves out


def pins(lines: list[str]) -> dict[str, str]:
    """Name -> version of `name==version` lines; comments and options are passed over."""
    found = {}
    for line in lines:
        if not line.strip() or line.startswith(("#", "-")):
            continue
        requirement = Requirement(line)
        (clause,) = requirement.specifier
        assert clause.operator == "==", f"{line}: not a pin"
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{line}: pinned twice"
        found[name] = clause.version
    return found


def project(root: Path) -> dict:
    """The [project] table."""
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]


def ranges(root: Path, optional: bool = False) -> dict[str, Requirement]:
    """Name -> requirement of pyproject's dependencies and extras."""
    table = project(root)
    lines = list(table["dependencies"])
    for extra, more in table["optional-dependencies"].items():
        lines += more if optional or extra not in OPTIONAL else []
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def listed(root: Path) -> dict[str, str]:
    """The pinned pip list."""
    return pins((root / "requirements.txt").read_text("utf-8").splitlines())


def test_conda_and_pip_pin_the_same_versions(root: Path) -> None:
    dependencies = yaml.safe_load((root / "environment.yml").read_text("utf-8"))["dependencies"]
    (pip,) = [d["pip"] for d in dependencies if isinstance(d, dict)]
    assert pins(pip) == listed(root)
    assert "python=3.11" in dependencies


def test_pins_lie_in_the_ranges_of_the_package(root: Path) -> None:
    pinned, wanted = listed(root), ranges(root)
    assert set(pinned) == set(wanted)
    outside = [f"{n}=={v} not in {wanted[n]}" for n, v in pinned.items() if v not in wanted[n].specifier]
    assert not outside, outside


def test_installed_versions_lie_in_the_ranges(root: Path) -> None:
    outside = [f"{n} {version(n)}: {r}" for n, r in ranges(root).items() if version(n) not in r.specifier]
    assert not outside, outside


def test_version_is_stated_once_and_the_same(root: Path) -> None:
    stated = [ast.literal_eval(n.value) for n in ast.parse((root / "rd/__init__.py").read_text()).body[1:]]
    citation = yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))
    assert stated == [project(root)["version"]] == [citation["version"]]


def test_every_import_is_a_declared_dependency(root: Path) -> None:
    declared, owners = set(ranges(root, optional=True)), packages_distributions()
    ours = {"rd", *(path.stem for place in ("tests", "benchmarks") for path in root.glob(f"{place}/*.py"))}
    missing = set()
    for path in [*root.glob("rd/**/*.py"), *root.glob("tests/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - ours:
                if not {canonicalize_name(d) for d in owners.get(top, [top])} & declared:
                    missing.add(f"{path.relative_to(root)}: {top}")
    assert not missing, sorted(missing)
