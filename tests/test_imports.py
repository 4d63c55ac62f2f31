"""Imports flow one way, and each tool is known in one place."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = {"models": 0, "tasks": 1, "flows": 2}
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_flow_one_way(path: Path) -> None:
    layer = LAYERS[path.relative_to(ROOT).parts[0]]
    tops = {name.split(".")[0] for name in imported(path)}
    assert not {name for name in tops if LAYERS.get(name, layer) > layer}


@pytest.mark.parametrize(
    ("tool", "places"),
    [
        ("mlflow", {"tasks/mlflow_runs.py", "tasks/registry.py", "tasks/serve.py"}),
        ("prefect", {"flows"}),
        ("dvc", {"flows"}),
        ("great_expectations", {"tasks"}),
    ],
)
def test_each_tool_is_known_in_one_place(tool: str, places: set[str]) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(name == tool or name.startswith(f"{tool}.") for name in imported(path))
    }
    assert not {
        user for user in users if not any(user == place or user.startswith(f"{place}/") for place in places)
    }


def test_models_need_torch_and_transformers_alone() -> None:
    standard = {*sys.stdlib_module_names, "models", "torch", "transformers"}
    others = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / "models").rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] not in standard
    }
    assert others == set()


def test_engine_runs_where_only_torch_and_transformers_are_installed() -> None:
    absent = ["prefect", "mlflow", "dvc", "pandas", "great_expectations", "pydantic", "ruamel", "datasets"]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "import tasks.engine.loop, models.objectives as o; o.load_all()"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, check=True)


@pytest.mark.parametrize("module", ["listing", "ingest", "promote"])
def test_what_needs_no_torch_does_not_wait_for_it(module: str) -> None:
    script = f"import sys, tasks.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_bytecode_is_no_change_of_code_to_dvc() -> None:
    bytecode = "tasks/engine/__pycache__/loop.cpython-311.pyc"
    command = [sys.executable, "-m", "dvc", "check-ignore", bytecode, "tasks/engine/loop.py"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert told.stdout.split() == [bytecode]
