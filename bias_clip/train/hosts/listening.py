"""At which addresses of this host process 0 listens: at the coordinator's, and no others."""

import errno
import ipaddress
import socket
from collections.abc import Iterable

from bias_clip.train.hosts.log import log

_BACKLOG = 1024
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def listen(coordinator: str) -> list[socket.socket]:
    """Returns sockets that listen at "host:port", one for each address that the host's name has.

    Where the name leads to no address of this host (a service in front of it), or by this host's own
    table to its loopback, where the others could not come, it listens at all addresses, and says so.

    Raises:
      OSError: the port is taken, or the name is not known.
    """
    host, _, port = coordinator.rpartition(":")
    host = host.strip("[]")
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    families = {str(address[0]): family for family, _, _, _, address in found}
    if not _names_loopback(host):
        families = {text: f for text, f in families.items() if not _is_loopback(text)}
    servers = _open(families.items(), int(port))
    if servers:
        return servers
    log(
        f"{host} is not an address of this host that others can reach: process 0 listens at all of them."
    )
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return [
        socket.create_server(("", int(port)), family=family, dualstack_ipv6=both, backlog=_BACKLOG)
    ]


def _open(addresses: Iterable[tuple[str, int]], port: int) -> list[socket.socket]:
    servers: list[socket.socket] = []
    try:
        for text, family in addresses:
            try:
                servers.append(socket.create_server((text, port), family=family, backlog=_BACKLOG))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
    except OSError:
        for server in servers:
            server.close()
        raise
    for server in servers:
        server.setblocking(False)
    return servers


def _names_loopback(host: str) -> bool:
    """Whether all processes are meant to be on this host."""
    return host == "localhost" or _is_loopback(host)


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False  # a name
