"""Prefect's pages bear a busy database, and connect to no other server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flows import pages_server
from flows.pages_server import BUSY, PAUSES, Closed, Patient

Message = dict[str, Any]


class Application:
    """Answers 503 so many times, then 201; remembers what it was told."""

    def __init__(self, times_busy: int) -> None:
        self.heard: list[bytes] = []
        self._times_busy = times_busy

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        self.heard.append(body)
        busy = len(self.heard) <= self._times_busy
        await send({"type": "http.response.start", "status": BUSY if busy else 201, "headers": []})
        await send({"type": "http.response.body", "body": b"busy" if busy else b"done"})
        if busy:
            raise RuntimeError("database is locked")


def ask(app: Any, *said: bytes, sent: list[Message]) -> None:
    """Make a request whose body comes in these parts; the answer's messages go into `sent`."""
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in said]
    messages = iter([*parts, {"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http"}, receive, send))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_server, "PAUSES", (0.0,) * len(PAUSES))


@pytest.mark.parametrize("times_busy", [0, 1, len(PAUSES)])
def test_request_is_taken_up_again_while_the_database_is_busy(times_busy: int) -> None:
    app = Application(times_busy)
    sent: list[Message] = []
    ask(Patient(app), b"one", b"two", sent=sent)
    start, body = sent
    assert (start["status"], body["body"]) == (201, b"done")
    assert app.heard == [b"onetwo"] * (times_busy + 1)


def test_database_that_stays_busy_is_reported() -> None:
    app = Application(len(PAUSES) + 1)
    sent: list[Message] = []
    with pytest.raises(RuntimeError, match="locked"):
        ask(Patient(app), b"one", sent=sent)
    assert sent[0]["status"] == BUSY
    assert len(app.heard) == len(PAUSES) + 1


def test_other_failures_are_told_at_once() -> None:
    calls: list[Any] = []
    sent: list[Message] = []

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        calls.append(scope)
        await send({"type": "http.response.start", "status": 500, "headers": []})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(Patient(broken), sent=sent)
    assert [message["status"] for message in sent] == [500]
    assert len(calls) == 1


def test_pages_may_connect_to_their_server_alone() -> None:
    sent: list[Message] = []
    ask(Closed(Application(0), "http://example.org:4200"), sent=sent)
    assert (
        dict(sent[0]["headers"])[b"content-security-policy"] == b"connect-src 'self' http://example.org:4200"
    )
