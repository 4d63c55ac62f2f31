"""A page of pictures alone: a heading, sentences, sections of sheets, strips of neighbours; one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.pages import wording
from tasks.pages.neighbours import Query
from tasks.pages.sheets import Section
from tasks.pages.templates import template


def render(
    over: str,
    title: str,
    sentences: Sequence[str],
    sections: Sequence[Section] = (),
    queries: Sequence[Query] = (),
    seen: Mapping[str, str] | None = None,
) -> str:
    """The whole page.

    Args:
        over: what it belongs to, above the title.
        title: the heading.
        sentences: what to know first.
        sections: sheets of pictures.
        queries: rows with their nearest neighbours.
        seen: pictures of those, as addresses, by id.
    """
    return template("gallery.html.j2", {"unbroken": wording.unbroken}).render(
        over=over, title=title, sentences=sentences, sections=sections, queries=queries, seen=seen or {}
    )
