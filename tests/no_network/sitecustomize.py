"""On the PYTHONPATH of a stage under test: writes down and refuses every attempt to reach another machine."""

import os
import socket


def _guard(name: str):
    original = getattr(socket.socket, name)

    def refuse(self, *arguments):
        if self.family == socket.AF_UNIX:
            return original(self, *arguments)
        _write_down(f"{name} {arguments[-1]}")

    setattr(socket.socket, name, refuse)


def _write_down(attempt: str):
    with open(os.environ["NETWORK_LOG"], "a") as log:
        log.write(attempt + "\n")
    raise PermissionError(f"no network here: {attempt}")


for _name in ("connect", "connect_ex", "sendto"):
    _guard(_name)
socket.getaddrinfo = lambda *arguments, **_: _write_down(f"getaddrinfo {arguments[:2]}")
