"""The pipeline as a flow that people start, from Prefect's pages or from the command line."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, runtime
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.utilities.names import generate_slug

from flows import services, work
from flows.bringing import Wish, bring
from flows.forms import (
    LEAST_BUDGET,
    MOST_BUDGET,
    NOTHING,
    OWN,
    STAGES,
    Budget,
    Encoder,
    Recipe,
    Redo,
    Stage,
    changed,
    names,
)
from flows.services import DEFAULT_API, answers
from tasks import layout
from tasks.errors import InputError
from tasks.overrides import parsed

STARTUP_SECONDS = 180  # of a temporary server; Prefect gives it 20, too few on two busy cores


def run_name() -> str:
    """The recipe and two words."""
    return f"{runtime.flow_run.parameters['recipe']}-{generate_slug(2)}"


@flow(name="pipeline", flow_run_name=run_name, persist_result=False)
def pipeline(
    recipe: Recipe,
    until: Stage = STAGES[-1],
    redo_from: Redo = NOTHING,
    encoder: Encoder = OWN,
    budget: Budget = 1.0,
    changes: dict[str, Any] = {},  # noqa: B006 - never written to; None would be a choice of types in the form
    apart: bool = True,
) -> dict[str, str]:
    """Bring a recipe's results up to date, from its sources to its report.

    Args:
        recipe: Entry of params.yaml's recipes.
        until: Last stage to run; those before it run as far as they are out of date.
        redo_from: Run this stage and those after it even where nothing has changed.
        encoder: Another entry of params.yaml's encoders for this run.
        budget: Steps of pretraining and adaptation, in times of the recipe's; 0.1 for a quick try.
        changes: Other values for this run, such as {"pretrain.lr": 0.001, "seed": 3}; the recipe's own
            keys, or full ones such as encoders.bert-demo.config.hidden_size.
        apart: Work in a folder of its own, kept as branch runs/NAME; without it, in the project's folder.

    Returns:
        What became of each stage: ran, restored or unchanged.
    """
    wanted = changed(recipe, encoder, budget, changes)
    return bring(Wish(recipe, Path.cwd(), until, None if redo_from == NOTHING else redo_from, wanted, apart))


@contextmanager
def server() -> Iterator[str | None]:
    """Talk to the Prefect server that answers, or to a temporary one whose runs later servers here know."""
    wanted = PREFECT_API_URL.value() or DEFAULT_API
    if answers(f"{wanted}/health"):
        with temporary_settings({PREFECT_API_URL: wanted}):
            yield wanted
        return
    print(
        f"No Prefect server answers at {wanted}: a temporary one starts for this run, "
        "which takes 20 s or more. `make ui` starts one that stays.",
        file=sys.stderr,
    )
    home = layout.scratch() / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    database = services.database(services.PREFECT_DATABASE, "asyncpg", services.sqlite(home))
    settings = {
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: STARTUP_SECONDS,
        PREFECT_API_DATABASE_CONNECTION_URL: database,
    }
    with temporary_settings(settings, restore_defaults={PREFECT_API_URL}):
        yield None


def _budget(word: str) -> float:
    if not LEAST_BUDGET <= (budget := float(word)) <= MOST_BUDGET:
        raise argparse.ArgumentTypeError(f"{word} is not within {LEAST_BUDGET} and {MOST_BUDGET:.0f}")
    return budget


def main() -> int:
    """Command line: `python -m flows.pipeline <recipe> [--set pretrain.steps=500]`."""
    parser = argparse.ArgumentParser(description=(pipeline.__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", choices=names("recipes") or None)
    parser.add_argument("--until", choices=STAGES[1:], default="report", help="last stage to run")
    parser.add_argument(
        "--redo-from",
        choices=STAGES[1:],
        default=NOTHING,
        help="run this stage and those after it in any case",
    )
    parser.add_argument(
        "--encoder",
        choices=names("encoders") or None,
        default=OWN,
        help="another encoder than the recipe's",
    )
    parser.add_argument(
        "--budget", type=_budget, default=1.0, help="training steps, in times of the recipe's"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other values for this run")
    parser.add_argument(
        "--apart",
        action="store_true",
        help="work in a folder of its own, as --set, --encoder and --budget do",
    )
    options = parser.parse_args()
    started = time.monotonic()
    try:
        changes = parsed(options.set)
        apart = options.apart or changes or options.encoder != OWN or options.budget != 1
        with server():
            outcomes = pipeline(
                options.recipe,
                options.until,
                options.redo_from,
                options.encoder,
                options.budget,
                changes,
                bool(apart),
            )
    except work.StageFailed as failure:
        print(failure, file=sys.stderr)
        return failure.code if failure.code == work.VALIDATION_FAILED else 1
    except (InputError, work.NoPlan) as error:
        print(error, file=sys.stderr)
        return 1
    ran = [address for address, outcome in outcomes.items() if outcome == "ran"]
    what = f"{len(ran)} of {len(outcomes)} stages ran in {time.monotonic() - started:.0f} s"
    print(f"{what}: {', '.join(ran) or 'all is up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
