"""Disks that are full or read-only, for one process."""

import errno
import io
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limited_to(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def read_only(directory: Path, monkeypatch) -> None:
    """Nothing can be made below it. Told to Python and not to the disk: root may write everywhere."""
    directory.mkdir(exist_ok=True)
    make, opened, stream = os.mkdir, os.open, io.open

    def refuse(path) -> None:
        if directory in Path(path).absolute().parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def refusing_mkdir(path, *args, **kwargs):
        refuse(path)
        return make(path, *args, **kwargs)

    def refusing_open(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR):
            refuse(path)
        return opened(path, flags, *args, **kwargs)

    def refusing_stream(path, mode="r", *args, **kwargs):
        if not isinstance(path, int) and set(mode) & set("wax+"):
            refuse(path)
        return stream(path, mode, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", refusing_mkdir)
    monkeypatch.setattr(io, "open", refusing_stream)
    monkeypatch.setattr(os, "open", refusing_open)
