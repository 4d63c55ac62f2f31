"""Expectations in few words, and their verdicts on tables; the only file that runs Great Expectations.

Great Expectations 1.24 (https://docs.greatexpectations.io): an ephemeral context, suites in code,
Data Docs in a folder. Those hold time stamps; what `check` answers does not.
"""

from __future__ import annotations

import functools
import importlib
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from great_expectations.expectations.expectation import Expectation

EXAMPLES = 5
NAMED_ROWS = 5_000  # the library looks ids up one by one, 75 us each, so pages name no more than these


@functools.cache
def _library() -> Any:
    """Great Expectations, which takes 4 s to import."""
    with warnings.catch_warnings():  # its marshmallow models import a module that Python 3.11 deprecates
        warnings.filterwarnings("ignore", "module 'sre_", DeprecationWarning)
        import great_expectations
    return great_expectations


def _expect(name: str, *, hard: bool, remedy: str, **arguments: Any) -> Expectation:
    severity = "critical" if hard else "warning"
    given = {key: value for key, value in arguments.items() if value is not None}
    kind: Callable[..., Expectation] = getattr(_library().expectations, name)
    return kind(severity=severity, meta={"remedy": remedy}, **given)


def between(
    column: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    breaking: float = 0.0,
    hard: bool,
    remedy: str,
) -> Expectation:
    """At most the share `breaking` of the column's values is outside of the bounds; nulls don't count."""
    return _expect(
        "ExpectColumnValuesToBeBetween",
        column=column,
        min_value=minimum,
        max_value=maximum,
        mostly=1 - breaking,
        hard=hard,
        remedy=remedy,
    )


def among(
    column: str, values: Iterable[Any], *, breaking: float = 0.0, hard: bool, remedy: str
) -> Expectation:
    """At most the share `breaking` of the column's values is none of `values`; nulls don't count."""
    return _expect(
        "ExpectColumnValuesToBeInSet",
        column=column,
        value_set=list(values),
        mostly=1 - breaking,
        hard=hard,
        remedy=remedy,
    )


def unique(column: str, *, hard: bool, remedy: str) -> Expectation:
    """No value of the column stands twice."""
    return _expect("ExpectColumnValuesToBeUnique", column=column, hard=hard, remedy=remedy)


def rows(*, minimum: int, hard: bool, remedy: str) -> Expectation:
    """The table has at least `minimum` rows."""
    return _expect("ExpectTableRowCountToBeBetween", min_value=minimum, hard=hard, remedy=remedy)


@dataclass(frozen=True)
class Suite:
    """What is expected of one table, whose rows are named by its column `id`."""

    slot: str
    name: str
    table: pa.Table
    expectations: Sequence[Expectation]


def check(suites: Iterable[Suite], docs: Path) -> list[dict[str, Any]]:
    """Verdict on every expectation, in order, and Data Docs in the folder `docs`, which is replaced.

    Returns:
        `slot`, `table`, `column`, `expectation` (in words), `severity` (critical or warning),
        `passed`, `observed` (share of unexpected rows, or number of rows), `unexpected` (number of
        rows), `examples` (ids of the first of them), `remedy`.
    """
    library = _library()
    shutil.rmtree(docs, ignore_errors=True)
    types = importlib.import_module("great_expectations.data_context.types.base")
    context = library.get_context(
        mode="ephemeral",
        project_config=types.DataContextConfig(
            store_backend_defaults=types.InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            data_docs_sites={"pages": _site(docs)},
            progress_bars=types.ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    source = context.data_sources.add_pandas("records")
    verdicts = []
    for suite in suites:
        frame = suite.table.to_pandas()
        verdicts += [
            _verdict(suite, result, frame) for result in _run(library, context, source, suite, frame)
        ]
    context.build_data_docs()
    return verdicts


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(folder.absolute()),
        },
    }


def _run(library: Any, context: Any, source: Any, suite: Suite, frame: pd.DataFrame) -> list[Any]:
    """Results of one suite; they also enter the context's store, where Data Docs find them."""
    name = f"{suite.slot} {suite.name}".replace("/", " ")  # names become folders of the pages
    batches = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
    expectations = context.suites.add(
        library.ExpectationSuite(name=name, expectations=list(suite.expectations))
    )
    definition = context.validation_definitions.add(
        library.ValidationDefinition(name=name, data=batches, suite=expectations)
    )
    given = {"dataframe": frame}
    how: dict[str, Any] = {"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES}
    if (
        len(frame) <= NAMED_ROWS
        or _num_unexpected(batches.get_batch(given).validate(expectations)) <= NAMED_ROWS
    ):
        how["unexpected_index_column_names"] = ["id"]
    return list(definition.run(batch_parameters=given, result_format=how).results)


def _num_unexpected(outcome: Any) -> int:
    return sum(result.result.get("unexpected_count", 0) for result in outcome.results)


def _verdict(suite: Suite, result: Any, frame: pd.DataFrame) -> dict[str, Any]:
    config, found = result.expectation_config, result.result
    if result.exception_info.get("raised_exception"):
        raise RuntimeError(
            f"{suite.slot}: {config.type} of {config.kwargs} could not be computed: "
            f"{result.exception_info['exception_message']}"
        )
    column = config.kwargs.get("column")
    examples: list[str] = []
    observed = found.get("observed_value")
    if column is not None:
        observed = (found.get("unexpected_percent_nonmissing") or 0.0) / 100
        # a value breaks its expectation wherever it stands, so the values lead to the rows
        broken = frame[column].isin(found.get("partial_unexpected_list", []))
        examples = [str(name) for name in frame.loc[broken, "id"].head(EXAMPLES)]
    return {
        "slot": suite.slot,
        "table": suite.name,
        "column": column or "rows",
        "expectation": _in_words(config.kwargs),
        "severity": config.severity.value,
        "passed": bool(result.success),
        "observed": round(float(observed), 6),
        "unexpected": int(found.get("unexpected_count", 0)),
        "examples": examples,
        "remedy": config.meta["remedy"],
    }


def _in_words(arguments: Mapping[str, Any]) -> str:
    least, most = arguments.get("min_value"), arguments.get("max_value")
    if "value_set" in arguments:
        words = " or ".join(
            str(value).lower() if isinstance(value, bool) else str(value) for value in arguments["value_set"]
        )
    elif least is None and most is None:
        words = "unique"
    else:
        bounds = (("at least", least), ("at most", most))
        words = " and ".join(f"{side} {bound:g}" for side, bound in bounds if bound is not None)
    share = arguments.get("mostly", 1.0)
    return words if share == 1 else f"{words} in at least {100 * share:.4g} % of the rows"
