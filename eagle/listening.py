"""Where a command listens: on this machine alone unless it is told otherwise."""

import ipaddress
import socket

OPEN_TO_ALL = "whoever reaches this port can ask this machine for answers: there is no password"


def bound(host: str, port: int) -> socket.socket:
    """A socket of that address, for a server to listen on; port 0: any free one.

    Raises ValueError for a port that is taken and for an address that is not ours.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"port is {port}, it must lie in 0..65535")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ValueError(
            f"cannot listen at {host}:{port} ({error.strerror}): choose another --port or --host"
        ) from None
    return listener


def free_port(host: str, port: int) -> int:
    """The port, or any free one for 0, for a server that binds by itself. Raises ValueError as `bound` does."""
    with bound(host, port) as listener:
        return int(listener.getsockname()[1])


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
