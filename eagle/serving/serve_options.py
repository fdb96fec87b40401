"""How a server behaves, whatever it serves."""

from dataclasses import dataclass

from eagle.listening import is_loopback
from eagle.options import check_options, option


@dataclass(frozen=True)
class ServeOptions:
    """Raises ValueError at construction for values outside their range."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 lets other machines in")
    port: int = option(8000, "0: a free one", at_least=0, at_most=65535)
    api_key: str | None = option(None, "clients must send it; better in EAGLE_HSD_API_KEY than on the command line")
    served_model_name: str | None = option(None, "what clients call the model (default: the target's name)")
    max_active: int = option(4, "requests that are decoded side by side", at_least=1)
    take_turns: bool = option(
        False, "requests share no pass: slower, and in bfloat16 no text depends on its neighbours"
    )
    max_waiting: int = option(64, "requests that wait; more are told to come again (429)", at_least=0)
    max_sessions: int | None = option(None, "texts kept in memory for next turns (default: twice max_active)")
    reuse_block: int = option(64, "whole blocks of a prompt are kept for the next one; 0: nothing is", at_least=0)
    max_body_mb: float = option(4.0, "of a request", above=0)
    grace_s: float = option(5.0, "how long answers may go on after Ctrl-C", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.max_sessions is None:
            object.__setattr__(self, "max_sessions", 2 * self.max_active)
        if self.num_sessions < self.max_active:
            raise ValueError(
                f"max_sessions is {self.max_sessions}, it must be at least {self.max_active} (max_active): every "
                "request that is decoded has a session"
            )

    @property
    def num_sessions(self) -> int:
        assert self.max_sessions is not None, "set at construction"
        return self.max_sessions

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)
