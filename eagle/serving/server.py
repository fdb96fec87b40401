"""An application on a socket, until a signal ends it."""

import socket
from collections.abc import Callable

import uvicorn

from eagle.serving.app import make_app
from eagle.serving.backend import Backend
from eagle.serving.serve_options import ServeOptions


class Server(uvicorn.Server):
    """Says when it listens, and where."""

    def __init__(self, config: uvicorn.Config, told: Callable[[str], None] = lambda address: None):
        super().__init__(config)
        self._told = told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for one in sockets or ():
            self._told(address(one))


def serve(backend: Backend, options: ServeOptions, listener: socket.socket, told: Callable[[str], None]) -> None:
    """Until a signal ends it: SIGINT raises KeyboardInterrupt then. `told` gets the address once it listens."""
    new_server(backend, options, told).run(sockets=[listener])


def new_server(backend: Backend, options: ServeOptions, told: Callable[[str], None] = lambda address: None) -> Server:
    """Answers under way are cut off when `grace_s` is over."""
    config = uvicorn.Config(
        make_app(backend, options),
        log_level="info",
        timeout_graceful_shutdown=max(round(options.grace_s), 1),
        server_header=False,
    )
    return Server(config, told)


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
