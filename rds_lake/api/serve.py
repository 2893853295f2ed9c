"""The API as a server of its own: `rds-lake api`."""

import ipaddress
import os
import socket
from collections.abc import Mapping

import uvicorn

from rds_lake.api.app import create_app
from rds_lake.api.auth import AUTH, KEY, Auth
from rds_lake.api.connection import dagster_url, open_log
from rds_lake.errors import ConfigError


def serve(host: str, port: int, environ: Mapping[str, str] = os.environ) -> None:
    """Serve the API until it is told to stop.

    Args:
        host: the address to listen on.
        port: the port.
        environ: the environment.

    Raises:
        ConfigError: it must not be served like that, or the environment lacks something.
    """
    auth = auth_for(host, environ)
    app = create_app(open_log(environ), auth=auth, dagster_url=dagster_url(environ))
    # h11 reads at most 64 KB of a request line and headers; httptools, which uvicorn would prefer, has no limit.
    uvicorn.run(app, host=host, port=port, http="h11", server_header=False)


def auth_for(host: str, environ: Mapping[str, str]) -> Auth:
    """Who may call a server that listens on an address.

    Raises:
        ConfigError: anybody could, from elsewhere; or nobody, since no API Gateway is in front.
    """
    auth = Auth.of(environ)
    if auth.mode == "iam":
        raise ConfigError(
            f"{AUTH} is 'iam', and only API Gateway can prove that IAM has authorised a caller.",
            f"Set {KEY} and take {AUTH} out, or deploy rds_lake.api.lambda_handler.handler behind API Gateway.",
        )
    if auth.mode == "off" and not is_loopback(host):
        raise ConfigError(
            f"{host or 'Every address'} can be reached from other machines, and {KEY} is not set.",
            f"Set {KEY}, or listen on 127.0.0.1.",
        )
    return auth


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; of a name, whether that is so of all its addresses."""
    if not host:
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"The address '{host}' does not exist: {error}.", "Listen on 127.0.0.1.") from error
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
