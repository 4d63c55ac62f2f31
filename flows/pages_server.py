"""Prefect's server as `prefect server start` runs it, with pages that ask no other and bear a busy database.

Version 2 of the pages fetches settings of an analytics service even where analytics are switched off; a
Content-Security-Policy (https://www.w3.org/TR/CSP3/) has the browser refuse that. Where two writers meet in
SQLite, one of them is told 503: Prefect's clients sleep for seconds and ask again, its pages lose the click.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_UI_API_URL, get_current_settings

BUSY = 503  # on SQLite, Prefect's word for "nothing was written, ask again"
PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds


class Patient:
    """An application that takes up a request again where its database was busy."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on until its answer is another than 503, at last whatever it is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = [await receive()]
        while body[-1].get("more_body"):
            body.append(await receive())
        for pause in PAUSES:
            if not await self._is_busy(scope, _anew(body, receive), send):
                return
            await asyncio.sleep(pause)
        await self._app(scope, _anew(body, receive), send)

    async def _is_busy(self, scope: Any, receive: Any, send: Any) -> bool:
        """Whether the answer was 503; any other has been sent."""
        busy = False

        async def unless_busy(message: Any) -> None:
            nonlocal busy
            busy = busy or message.get("status") == BUSY
            if not busy:
                await send(message)

        try:
            await self._app({**scope}, receive, unless_busy)
        except Exception:  # Starlette raises it once more when it has been answered
            if not busy:
                raise
        return busy


def _anew(body: list[Any], receive: Any) -> Any:
    """What a request says, from its beginning; then whatever its client says next."""
    messages = iter(body)

    async def said() -> Any:
        for message in messages:
            return message
        return await receive()

    return said


class Closed:
    """An application whose pages connect to nobody but their own server and `others`."""

    def __init__(self, app: Any, *others: str) -> None:
        self._app = app
        self._policy = " ".join(["connect-src 'self'", *others]).encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and add the policy to its answer."""

        async def closed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", self._policy)]
            await send(message)

        await self._app(scope, receive, closed if scope["type"] == "http" else send)


def main(host: str, port: int) -> None:
    """Serve until stopped."""
    api = urlsplit(PREFECT_UI_API_URL.value() or "")
    others = [f"{api.scheme}://{api.netloc}", f"ws{api.scheme[4:]}://{api.netloc}"] if api.netloc else []
    server = get_current_settings().server
    app: Any = create_app(final=True)
    if PREFECT_API_DATABASE_CONNECTION_URL.value().startswith("sqlite"):
        app = Patient(app)  # PostgreSQL keeps writers apart, and its 503 may follow what was written
    uvicorn.run(
        Closed(app, *others),
        host=host,
        port=port,
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=server.logging_level.lower(),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
