"""Asking a process."""

from __future__ import annotations

import json
import os
import socket
import stat
from typing import Any

from lifecycle.inspection.protocol import (
    LONGEST_ANSWER,
    PATIENCE,
    VARIABLE,
    InspectionError,
    check_path,
    peer_of,
    receive,
)

ANSWER_WITHIN = 30.0
"""Seconds: a walk through a big heap takes some."""


def socket_of(pid: int) -> str:
    """The path of the socket that process `pid` has been told to serve at. Raises `InspectionError`."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read(1 << 20).split(b"\0")
    except FileNotFoundError:
        raise InspectionError(f"there is no process {pid}") from None
    except OSError as error:
        raise InspectionError(f"process {pid} cannot be asked: {error.strerror}") from None
    head = f"{VARIABLE}=".encode()
    for entry in environment:
        if entry.startswith(head):
            path = os.fsdecode(entry[len(head) :]).replace("{pid}", str(pid))
            if os.path.isabs(path):
                return path
            try:
                return os.path.join(os.readlink(f"/proc/{pid}/cwd"), path)
            except OSError:
                break
    raise InspectionError(
        f"process {pid} serves no socket: start it with {VARIABLE}=$XDG_RUNTIME_DIR/name-{{pid}}.sock, or "
        "name the socket's path"
    )


def ask(path: str, question: str, **more: Any) -> dict[str, Any]:
    """Ask the process that serves at the socket `path`. Raises `InspectionError` with what it answers
    instead, or with why it does not."""
    check_path(path)
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        is_socket = True  # to be told by connect()
    if not is_socket:
        raise InspectionError(
            f"{path} is no socket: a question takes the id of a process, or the path that {VARIABLE} gave "
            "it. A recorder's file is shown by `lifecycle inspect FILE` without a question"
        )
    request = json.dumps({"question": question, **more}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(path)
            user = peer_of(connection)
            if user is not None and user not in (os.geteuid(), 0) and os.geteuid() != 0:
                raise InspectionError(f"{path} is served by another user ({user}): nothing was asked")
            connection.sendall(request)
            connection.settimeout(ANSWER_WITHIN)
            data = receive(connection, LONGEST_ANSWER)
        except TimeoutError:
            raise InspectionError(
                f"the process at {path} does not answer: it hangs, or another is asking; its recorder's file "
                "can be read all the same"
            ) from None
        except OSError as error:
            raise InspectionError(f"no process answers at {path}: {error.strerror or error}") from None
    try:
        told = json.loads(data)
    except ValueError:
        raise InspectionError(
            f"the process at {path} closed without an answer: you may not ask it, or it has just ended"
        ) from None
    if not isinstance(told, dict) or "error" in told:
        raise InspectionError(str(told.get("error") if isinstance(told, dict) else "no answer"))
    return told
