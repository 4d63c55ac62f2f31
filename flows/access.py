"""Who may reach the servers: this machine alone, or others with a user name and a password.

`UNMASK_HOST` names a network address. Both servers then ask for `UNMASK_USER` and `UNMASK_PASSWORD` by
their own means (HTTP basic authentication); encryption is for a proxy in front of them, whose name
`UNMASK_NAMES` tells them.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import secrets
import shutil
import socket
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from tasks import layout
from tasks.errors import InputError

HOST, USER, PASSWORD, NAMES = "UNMASK_HOST", "UNMASK_USER", "UNMASK_PASSWORD", "UNMASK_NAMES"
LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
SHORTEST = 12  # characters of a password, as MLflow wants them


@dataclass(frozen=True)
class Access:
    """Where the servers listen, and whom they let in.

    Attributes:
        host: address that they bind.
        user: whom they let in; empty where nobody is asked.
        password: of that user.
        names: by which browsers may know them beside this machine's own.
    """

    host: str = LOOPBACK
    user: str = ""
    password: str = field(default="", repr=False)
    names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The address by which programs of this machine reach them."""
        return LOOPBACK if self.host == EVERYWHERE else self.host

    def open(self, url: str, data: bytes | None = None, timeout: float = 2) -> Any:
        """Ask a server.

        Raises:
            OSError: it does not answer, or not well.
        """
        headers = {"Content-Type": "application/json", **self.headers()}
        return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=timeout)

    def headers(self) -> dict[str, str]:
        """Of a request, by which it shows who asks."""
        if not self.user:
            return {}
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}

    def of_clients(self) -> dict[str, str]:
        """Variables by which programs show who they are."""
        if not self.user:
            return {}
        return {
            "PREFECT_API_AUTH_STRING": f"{self.user}:{self.password}",
            "MLFLOW_TRACKING_USERNAME": self.user,
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }

    def of_prefect(self) -> dict[str, str]:
        """Variables of Prefect's server."""
        if not self.user:
            return {}
        return {
            "PREFECT_SERVER_API_AUTH_STRING": f"{self.user}:{self.password}",
            "PREFECT_SERVER_UI_API_URL": "/api",  # of whatever name a browser knows the server by
        }

    def of_mlflow(self) -> dict[str, str]:
        """Variables of MLflow's server.

        Its one user stands in a file made anew at each start, for MLflow keeps to the password it saw first.
        """
        if not self.user:
            return {}
        home = layout.scratch() / "access"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(mode=0o700, parents=True)
        config = home / "mlflow.ini"
        config.write_text(
            f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{home / 'users.db'}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        known = sorted({*_own_names(self.host), *self.names})
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_USERNAME": self.user,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(),  # signs forms
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{name}{port}" for name in known for port in ("", ":*")),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
                f"{scheme}://{name}{port}"
                for name in known
                for scheme in ("http", "https")
                for port in ("", ":*")
            ),
        }


def chosen() -> Access:
    """As the environment says.

    Raises:
        InputError: no address, or one that others reach without a user or a good password; says what to do.
    """
    host = os.environ.get(HOST) or LOOPBACK
    try:
        address = ipaddress.IPv4Address(socket.gethostbyname(host))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{HOST}={host}: expected an IPv4 address or name of this machine ({error})"
        ) from error
    if address.is_loopback:
        return Access(str(address))
    user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
    is_good = len(password) >= SHORTEST and f"{user}{password}".isascii()
    if not user or ":" in user or not is_good:
        raise InputError(
            f"{HOST}={host} lets other machines reach both servers. Give {USER} (without a colon) and "
            f"{PASSWORD} ({SHORTEST} plain letters, digits and signs or more), which they then ask for; or "
            f"leave {HOST} alone and reach them through a tunnel: "
            "ssh -L 4200:127.0.0.1:4200 -L 5000:127.0.0.1:5000 <this machine>"
        )
    return Access(str(address), user, password, (host, *os.environ.get(NAMES, "").split()))


def visitor() -> Access:
    """Who this process says it is, as `UNMASK_USER` and `UNMASK_PASSWORD` have it."""
    return Access(user=os.environ.get(USER, ""), password=os.environ.get(PASSWORD, ""))


def credentials() -> dict[str, str]:
    """Variables by which this process says who it is, where `UNMASK_USER` and its password are set."""
    who = visitor()
    return who.of_clients() if who.password else {}


def _own_names(host: str) -> set[str]:
    """Names and addresses by which this machine is known."""
    import psutil

    found = {"localhost", LOOPBACK, socket.gethostname(), socket.getfqdn()}
    if host != EVERYWHERE:
        return found | {host}
    every = (one for addresses in psutil.net_if_addrs().values() for one in addresses)
    return found | {one.address for one in every if one.family == socket.AF_INET}
