"""Tells Prefect which flows can be started from its web page, and starts them when it asks."""

from __future__ import annotations

from typing import cast

from prefect import serve
from prefect.deployments.runner import RunnerDeployment

from flows.pipeline import pipeline

MOST_AT_ONCE = 8  # of which as many compute as the machine has places


def main() -> None:
    """Serve until stopped."""
    deployment = pipeline.to_deployment(  # answers a coroutine only where an event loop runs
        name="train",
        description="Bring a recipe's results up to date, from its sources to its report.",
        tags=["unmask"],
    )
    serve(cast("RunnerDeployment", deployment), limit=MOST_AT_ONCE, pause_on_shutdown=False)


if __name__ == "__main__":
    main()
