"""Where a command listens: on this machine alone unless it is told otherwise."""

import ipaddress
import socket

OPEN_TO_ALL = "whoever reaches this port can ask this machine for answers: there is no password"


def free_port(host: str, port: int) -> int:
    """The port, or any free one for 0. Raises ValueError for one that is taken and for an address that is not ours."""
    if not 0 <= port < 2**16:
        raise ValueError(f"port is {port}, it must lie in 0..65535")
    try:
        with socket.create_server((host, port)) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        raise ValueError(
            f"cannot listen at {host}:{port} ({error.strerror}): choose another --port or --host"
        ) from None


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
