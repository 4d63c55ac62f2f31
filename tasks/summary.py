"""A recipe's result in the terminal: table, verdict, where to look: `python -m tasks.summary <recipe>`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tasks import layout
from tasks.pages.terminal import table


def text(recipe: str) -> str:
    """The table of the last fine-tuning, or the sentence that there is none."""
    path = layout.run(recipe, "finetune") / "summary.json"
    if not path.exists():
        return f"{path} is missing; make it with `dvc repro report@{recipe}`"
    summary = json.loads(path.read_text(encoding="utf-8"))
    return table(summary) if summary else f"{recipe} has no labelled sets; its losses are in the report"


def main() -> None:
    """Print table, place of the report, and how to open the web pages."""
    parser = argparse.ArgumentParser(prog="python -m tasks.summary", description=main.__doc__)
    parser.add_argument("recipe")
    recipe = parser.parse_args().recipe
    report = Path(layout.run(recipe, "report") / "report.html").absolute()
    lines = [
        "",
        text(recipe),
        "",
        f"report  file://{report}",
        "model   " + str(layout.run(recipe, "finetune") / "models"),
        "UIs     make ui   (Prefect: start and schedule runs; MLflow: compare them)",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
