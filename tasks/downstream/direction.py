"""Which scores are better the lower they are; all others are shares, better the higher they are."""

from __future__ import annotations

ERROR_RATES = frozenset({"word_error_rate", "character_error_rate"})
LOWER_IS_BETTER = ERROR_RATES | {"loss", "perplexity", "bits_per_character", "error"}


def sign(metric: str) -> int:
    """+1 where more is better, -1 where less is."""
    return -1 if metric in LOWER_IS_BETTER else 1
