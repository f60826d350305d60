"""A caller cheaper than any real one, to find what the stand-in can do."""

import selectors
import socket
from urllib.parse import urlsplit

from .databases import TOKEN


def of_calls(url: str, calls: int, sockets: int) -> int:
    """Make N calls over N sockets, each as soon as its last one is answered."""
    address = urlsplit(url)
    # The headers that requests sends.
    request = (
        f"GET /authorize/refreshaccesstoken/{TOKEN}?appid=bench HTTP/1.1\r\n"
        f"Host: {address.netloc}\r\nUser-Agent: python-requests/2.32\r\n"
        "Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n"
    ).encode()
    selector = selectors.DefaultSelector()
    clients = [socket.create_connection((address.hostname, address.port)) for _ in range(sockets)]
    for client in clients:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(client, selectors.EVENT_READ, client)
        client.send(request)
    done, asked = 0, sockets
    while done < calls:
        for key, _ in selector.select():
            key.data.recv(4096)
            done += 1
            if asked < calls:
                key.data.send(request)
                asked += 1
    for client in clients:
        client.close()
    return done
