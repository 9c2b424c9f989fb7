"""A small sender: posts the bodies it is given, one by one, and says what came back.

A program of its own, for Python alone: it imports nothing of ours and knows nothing of payloads.
In, one JSON object a line: {"url": ..., "body": base64}. Out, one line for each:
{"status": HTTP status, "answer": text, "ms": milliseconds from the first byte sent to the last
one read} or {"error": text}. It ends when its input does.
"""

from __future__ import annotations

import base64
import http.client
import json
import signal
import sys
import time
from urllib.parse import urlsplit

TIMEOUT = 10.0  # seconds; WhatsAble waits no longer either
STALE = 2.0  # seconds after which a server may have closed an idle connection


def post(connection: http.client.HTTPConnection, path: str, body: bytes) -> dict[str, object]:
    """Post one body as WhatsAble does."""
    began = time.perf_counter()
    connection.request("POST", path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    answer = response.read(65_536)
    took = time.perf_counter() - began
    return {
        "status": response.status,
        "answer": answer.decode("utf-8", "replace"),
        "ms": round(took * 1000, 3),
    }


def main() -> None:
    """Read lines, post, write lines."""
    # Ctrl-C goes to everybody in the terminal; this program ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connections: dict[str, http.client.HTTPConnection] = {}
    used = time.monotonic()
    for line in sys.stdin:
        order = json.loads(line)
        place = urlsplit(order["url"])
        connection = connections.get(place.netloc)
        if connection is None:
            connection = http.client.HTTPConnection(place.netloc, timeout=TIMEOUT)
            connections[place.netloc] = connection
        if time.monotonic() - used > STALE:
            connection.close()  # a request opens it again
        try:
            told = post(connection, place.path, base64.b64decode(order["body"]))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            told = {"error": f"{type(error).__name__}: {error}"}
        used = time.monotonic()
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
