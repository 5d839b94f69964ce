"""An HTTP service with native objects in it: ``python notes.py notes.db``.

``GET /notes`` lists the notes, ``POST /notes`` adds the body as one, ``/metrics`` is for Prometheus,
``/health`` for whoever balances the load. The connections of SQLite are lent by a pool: each is used by one
request at a time, waited for in turn, and closed once, when nobody uses it. SIGTERM ends the service in
order: no new requests, the running ones are finished, then the connections are closed, and what was forgotten
is said.

It needs ``native-lifecycle[prometheus]``. Its tests (``python -m pytest``) have a leak gate: pytest.ini.
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from lifecycle import ObjectPool, SafetyManager
from lifecycle.errors import PoolExhaustedError
from lifecycle.integrations.prometheus import wsgi_app


class Notes:
    """The service, as a WSGI application. Close it when no request runs any more."""

    def __init__(self, path: str, *, connections: int = 4, patience: float = 5.0) -> None:
        self.manager = SafetyManager(name="notes")
        self.connections = ObjectPool(
            self.manager,
            # SQLite refuses other threads unless told that somebody sees to it. The pool does.
            partial(sqlite3.connect, path, check_same_thread=False),
            size=connections,
            timeout=patience,
            reset=sqlite3.Connection.rollback,
            destroy=sqlite3.Connection.close,
            name="connections",
        )
        self._observed = wsgi_app(self.manager)
        # Opened before the first request asks, and not in it.
        self.connections.warm_up()
        with self.connections.item() as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS notes (number INTEGER PRIMARY KEY, text TEXT)")

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if path in ("/metrics", "/health"):
            return self._observed(environ, start_response)
        if path != "/notes" or method not in ("GET", "POST"):
            return answer(start_response, "404 Not Found", {"error": f"no such thing: {method} {path}"})
        try:
            if method == "GET":
                return answer(start_response, "200 OK", self.all())
            length = int(environ.get("CONTENT_LENGTH") or 0)
            text = environ["wsgi.input"].read(length).decode()
            return answer(start_response, "201 Created", {"number": self.add(text)})
        except PoolExhaustedError as error:
            # It names who holds the connections longest: that is for the log, not for strangers.
            print(error, file=sys.stderr)
            return answer(start_response, "503 Service Unavailable", {"error": "busy, try again"})

    def all(self) -> list[dict[str, Any]]:
        """Every note."""
        with self.connections.item() as connection:
            rows = connection.execute("SELECT number, text FROM notes ORDER BY number")
            return [{"number": number, "text": text} for number, text in rows]

    def add(self, text: str) -> int:
        """Add a note; its number."""
        # The inner block is SQLite's own: it commits, or rolls back where something is raised.
        with self.connections.item() as connection, connection:
            return int(connection.execute("INSERT INTO notes (text) VALUES (?)", (text,)).lastrowid or 0)

    def close(self) -> bool:
        """Close every connection. False where something was forgotten or has failed; it is said."""
        report = self.manager.close()
        if not report.ok:
            print(report, file=sys.stderr)
        return report.ok


def answer(start_response: Callable[..., Any], status: str, what: Any) -> list[bytes]:
    """Answer with JSON."""
    body = json.dumps(what).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request. Its end waits for those that run."""

    daemon_threads = False


class Quiet(WSGIRequestHandler):
    """No line for each request."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def serve(notes: Notes, port: int = 0) -> Server:
    """A server of `notes` on this machine; 0: any free port."""
    return make_server("127.0.0.1", port, notes, Server, Quiet)  # type: ignore[return-value,type-var]


def main() -> int:
    """Serve until SIGTERM or Ctrl-C; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("database")
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args()
    notes = Notes(asked.database)
    server = serve(notes, asked.port)
    # `shutdown` waits for the loop that this signal has struck: another thread has to call it.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"http://127.0.0.1:{server.server_port}/notes", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        well = notes.close()
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
