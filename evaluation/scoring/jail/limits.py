"""What a program may use, and the exit codes by which the launcher tells how it ended."""

from dataclasses import dataclass
from enum import IntEnum
from os import waitstatus_to_exitcode

NOBODY = 65534  # the user without rights


@dataclass(frozen=True)
class Limits:
    """Of one program with everything it starts, unless another scope is given."""

    wall_s: float = 5.0
    cpu_s: int = 5  # of a process
    memory_bytes: int = 1 << 30  # resident, of all processes together; also the address space of each
    file_bytes: int = 1 << 20  # of one file; what is printed is one
    scratch_bytes: int = 16 << 20  # of all files in a temporary folder together
    processes: int = 32  # threads count


class Ended(IntEnum):
    """Exit codes of the launcher; numbers that no program ends with by accident."""

    PASSED = 90
    FAILED = 91
    UNFIT = 92  # the tests themselves cannot be run
    NO_JAIL = 93  # the system refuses what keeps the program apart

    @classmethod
    def of(cls, status: int) -> "Ended":
        """From what `waitpid` says of a process that should end with one of these; FAILED where it was killed."""
        code = waitstatus_to_exitcode(status)
        return cls(code) if code in list(cls) else cls.FAILED
