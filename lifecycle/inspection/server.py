"""The socket of a process, and who may ask: its owner and root, one at a time, one question a connection."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.streams import sparing
from lifecycle.config import is_command_line
from lifecycle.inspection.protocol import (
    LONGEST_ANSWER,
    LONGEST_REQUEST,
    PATIENCE,
    VARIABLE,
    InspectionError,
    check_path,
    peer_of,
    receive,
)
from lifecycle.inspection.questions import answer
from lifecycle.observe.observers import logger


class Server:
    """Answers questions about this process, on a daemon thread of its own. Made by `serve`."""

    def __init__(self, path: str) -> None:
        check_path(path)
        _make_way(path)
        self.path = path
        self._pid = os.getpid()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(path)
            # Nobody else gets into the folder, so nobody was quicker.
            os.chmod(path, 0o600)
            self._socket.listen(1)
        except OSError as error:
            self._socket.close()
            raise InspectionError(
                f"no socket at {path}: {error.strerror or error}; choose another path"
            ) from None
        self._open = True
        runtime.at_fork_in_child(self._in_child)
        runtime.at_exit(self._at_exit)
        self._thread = runtime.new_thread(self._serve, "lifecycle-inspect")
        self._thread.start()

    def close(self) -> None:
        """Answer no more, and remove the socket. Closing twice is closing once."""
        if not self._open or os.getpid() != self._pid:
            return
        self._open = False
        runtime.not_at_exit(self._at_exit)
        # Wakes the thread that waits for the next client.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def __repr__(self) -> str:
        return f"<Server {self.path}: {'open' if self._open else 'closed'}>"

    def _at_exit(self) -> None:
        runtime.exit_hook_runs = True
        self.close()

    def _in_child(self) -> None:
        self._open = False
        self._socket.close()

    def _serve(self) -> None:
        while self._open:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            try:
                with connection:
                    connection.settimeout(PATIENCE)
                    _reply(connection)
            except OSError:
                # The client went away, or was too slow: the next one is served.
                continue


def _reply(connection: socket.socket) -> None:
    user = peer_of(connection)
    if user is not None and user not in (os.geteuid(), 0):
        return
    request = receive(connection, LONGEST_REQUEST)
    told: dict[str, Any]
    try:
        if len(request) > LONGEST_REQUEST:
            raise InspectionError(f"a question has at most {LONGEST_REQUEST} bytes")
        asked = json.loads(request)
        if not isinstance(asked, dict):
            raise InspectionError("a question is an object of JSON")
        told = {"pid": os.getpid(), **answer(asked)}
    except InspectionError as error:
        told = {"error": str(error)}
    except (ValueError, RecursionError):
        told = {"error": "a question is one line of JSON"}
    except Exception as error:
        # What goes wrong here is the inspector's to know, and no matter of the program.
        told = {"error": f"the process could not answer: {type(error).__name__}: {error}"}
    data = json.dumps(told, default=str).encode()
    if len(data) > LONGEST_ANSWER:
        data = json.dumps({"error": f"the answer has {len(data):,} bytes, which is too much"}).encode()
    connection.sendall(data + b"\n")


def _make_way(path: str) -> None:
    """See that `path` is in a folder of the user's own, and free: a socket that nobody serves is removed."""
    folder = os.path.dirname(path)
    try:
        about = os.stat(folder)
    except OSError as error:
        raise InspectionError(f"no socket in {folder}: {error.strerror}; make the folder first") from None
    if about.st_uid != os.geteuid() or about.st_mode & 0o022:
        raise InspectionError(
            f"no socket in {folder}: it must be a folder of your own that nobody else may write to, such as "
            "$XDG_RUNTIME_DIR, or one with mode 0700"
        )
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(there.st_mode):
        raise InspectionError(f"no socket at {path}: something else is there; choose another path")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.settimeout(PATIENCE)
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except OSError as error:
        raise InspectionError(f"no socket at {path}: {error.strerror or error}") from None
    finally:
        probe.close()
    raise InspectionError(f"no socket at {path}: another process serves there; put {{pid}} into the path")


def serve(path: str | os.PathLike[str] | None = None) -> Server:
    """Answer questions about this process at a Unix socket, and return the server.

    `path`: of the socket, in a folder of the user's own; ``{pid}`` in it is the process's id. None takes the
    environment's `LIFECYCLE_INSPECT`. Raises `InspectionError` where there can be no such socket. A forked
    child does not serve.
    """
    try:
        pattern = os.fsdecode(path) if path is not None else os.environ.get(VARIABLE, "")
    except TypeError:
        raise InspectionError(f"serve() takes the path of a socket, not {path!r}") from None
    if not pattern:
        raise InspectionError(f"no socket without a path: give one, or set {VARIABLE}")
    if not hasattr(socket, "AF_UNIX"):  # pragma: no cover - Windows
        raise InspectionError("this system has no Unix sockets")
    return Server(os.path.abspath(pattern.replace("{pid}", str(os.getpid()))))


def serve_from_environment() -> None:
    """`serve` as `LIFECYCLE_INSPECT` asks for: what is wrong with it is logged and not raised."""
    if is_command_line():
        return
    try:
        serve()
    except InspectionError as error:
        with sparing():
            logger().error("lifecycle.inspect", error=str(error))
