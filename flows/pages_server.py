"""Prefect's server as `prefect server start` runs it, with pages whose scripts may ask no other server.

Version 2 of the pages fetches settings of an analytics service even where analytics are switched off; a
Content-Security-Policy (https://www.w3.org/TR/CSP3/) has the browser refuse that.
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import PREFECT_UI_API_URL, get_current_settings


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
    uvicorn.run(
        Closed(create_app(final=True), *others),
        host=host,
        port=port,
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=server.logging_level.lower(),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
