"""The listening socket: opened once, and closed without resetting connections."""

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from workbench.errors import WorkbenchError


@contextmanager
def open_listener(host: str, port: int) -> Iterator[socket.socket]:
    """Raises WorkbenchError where the address cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, TypeError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number and number > 0 else str(error)
        raise WorkbenchError(
            f"cannot listen on {host}:{port}: {reason}", hint="choose another host or port"
        ) from error
    with listener:
        yield listener


def drop_new_connections(listener: socket.socket) -> None:
    """Drop new SYN packets (BPF filter) while the listening socket drains. Linux only, else nothing.

    Closing a socket resets the connections in its backlog, and under load there always is one. A dropped
    client tries again a second later, and finds the port closed.
    """
    if sys.platform != "linux":
        return
    so_attach_filter = 26  # socket(7); the operations are those of classic BPF
    flags_at, syn, syn_or_ack = 13, 0x02, 0x12
    operations = (
        (0x30, 0, 0, flags_at),  # load the byte of the TCP header
        (0x54, 0, 0, syn_or_ack),  # and it
        (0x15, 0, 1, syn),  # where it is the first of a connection,
        (0x06, 0, 0, 0),  # drop the packet,
        (0x06, 0, 0, 0xFFFF),  # else keep it
    )
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in operations))
    with suppress(OSError):
        program = struct.pack("HP", len(operations), ctypes.addressof(buffer))
        listener.setsockopt(socket.SOL_SOCKET, so_attach_filter, program)
