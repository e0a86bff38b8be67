"""Network interfaces of this machine, read from Linux."""

from __future__ import annotations

import fcntl
import socket
import struct

GET_ADDRESS = 0x8915  # SIOCGIFADDR of ioctl_list(2), on a struct ifreq: name in 16 bytes, then a sockaddr_in
NAME, ADDRESS = 16, slice(20, 24)


def address_towards(host: str, port: int) -> str:
    """The address by which a host sees this machine. Nothing is sent."""
    family, kind, *_, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


def interface_of(host: str) -> str | None:
    """The name of the interface with an address or host name's IPv4 address; None where none has it."""
    try:
        address = socket.gethostbyname(host)
    except OSError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack(f"{NAME}s24x", name.encode())
            try:
                found = fcntl.ioctl(any_socket, GET_ADDRESS, request)
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(found[ADDRESS]) == address:
                return name
    return None
