"""The engine: its services, opened and translated. Nothing here knows of managers.

- **Nothing is deleted.** A call on a port that was deleted ends the process. So no port is ever deleted:
  whoever closes lets go of the `Ends`, and a call in flight keeps them until it returns.
- **A topic is three services** of one name (frames, the event that tells of them, a blackboard with the
  publisher's figures), and one more event by which receivers ring for the publisher.
- **In a forked child** everything here is kept for ever: its destructors would deregister the parent.
"""

from __future__ import annotations

import ctypes
import errno
import operator
import os
import select
import time
from functools import partial
from typing import Any, Final

from lifecycle.integrations.across.errors import (
    MissingTransportError,
    SecondPublisherError,
    SharedMemoryError,
    TopicError,
    TransportError,
)
from lifecycle.integrations.across.header import SIZE
from lifecycle.integrations.iceoryx2._files import Place
from lifecycle.lowlevel import keep_for_ever, taking

try:
    import iceoryx2 as iox
except ImportError as error:
    raise MissingTransportError(
        f"iceoryx2 cannot be imported ({error}): pip install 'native-lifecycle[iceoryx2]'. It has wheels for "
        "Linux on x86-64 (glibc 2.34 or newer), macOS on arm64 and Windows; elsewhere (musl, Linux on ARM, "
        "the build of 3.13 without the GIL) it is built with Rust: https://github.com/eclipse-iceoryx/iceoryx2"
    ) from error

__all__ = [
    "LINE",
    "Ends",
    "Facts",
    "Figures",
    "Head",
    "Line",
    "event_service",
    "iox",
    "ipc",
    "joins_service",
    "open_node",
    "reap",
    "text_of_reason",
]

iox.set_log_level_from_env_or(iox.LogLevel.Fatal)

ipc: Final = iox.ServiceType.Ipc
LINE: Final = 64
"""Bytes in which room is measured, and to which every frame is aligned."""
FRAME_HEARD: Final = 0
LIFE: Final = "?life "
"""Behind the topic's name, with the number of a life: its publisher's figures."""
RING: Final = "?ring"
"""Behind the topic's name: the event by which receivers ring for the publisher."""
SHARED: Final = "/dev/shm"
USUAL_ROOT: Final = "/tmp/iceoryx2/"
ROOT: Final = f"{SHARED}/iceoryx2/"
"""Where the engine's files lie unless its own settings say where: beside the frames. On a disk each end of a
topic waits ten times for it when it opens, and the removal of a dead one four times."""
MOST_DESCRIPTORS: Final = 1024
UNHEARD: Final = 0.05
"""Seconds between two looks where the engine does not wait."""
OVERHEAD: Final = 1 << 19
"""Bytes that the engine's own files take at most: services, connections, events."""
SPARE_NODES: Final = 8
"""Processes beyond the receivers that may look at a topic at a time, and dead ones that were not reaped
yet."""


class Line(ctypes.Structure):
    """What the engine counts frames in: its own alignment of bytes would multiply the memory."""

    _fields_ = (("bytes", ctypes.c_uint8 * LINE),)

    @staticmethod
    def type_name() -> str:
        """How the engine knows it."""
        return "lifecycle.line"


class Head(ctypes.Structure):
    """The place of a frame's header."""

    _fields_ = (("words", ctypes.c_uint64 * (SIZE // 8)),)

    @staticmethod
    def type_name() -> str:
        """How the engine knows it."""
        return "lifecycle.head.1"


class Key(ctypes.Structure):
    """The blackboard has one entry."""

    _fields_ = (("key", ctypes.c_uint64),)

    @staticmethod
    def type_name() -> str:
        """How the engine knows it."""
        return "lifecycle.key"


class Facts(ctypes.Structure):
    """What a publisher tells of itself."""

    _fields_ = (
        ("epoch", ctypes.c_uint64),
        ("published", ctypes.c_uint64),
        ("closed", ctypes.c_uint64),
        ("pid", ctypes.c_uint64),
    )

    @staticmethod
    def type_name() -> str:
        """How the engine knows it."""
        return "lifecycle.facts.1"


class Figures:
    """The figures of a topic, fixed by who creates it."""

    __slots__ = ("behind", "held", "history", "receivers")

    def __init__(self, receivers: int, held: int, behind: int, history: int) -> None:
        self.receivers = receivers
        self.held = held
        self.behind = behind
        self.history = history

    @classmethod
    def of(cls, config: Any) -> Figures:
        """Those of a service."""
        return cls(
            config.max_subscribers,
            config.subscriber_max_borrowed_samples,
            config.subscriber_max_buffer_size,
            config.history_size,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Figures) and str(self) == str(other)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"receivers={self.receivers}, held={self.held}, behind={self.behind}, history={self.history}"


def text_of_reason(error: BaseException) -> str:
    """The engine's name for what it refused."""
    return str(error.args[0]) if error.args else type(error).__name__


def check_room(what: str, needed: int = 0) -> None:
    """See that shared memory can be written and has room for `needed` bytes and the engine's own files, which
    it writes without asking: where a page is missing the process is killed. Raises `SharedMemoryError`."""
    if not hasattr(os, "statvfs") or not os.path.isdir(SHARED):
        return
    room = os.statvfs(SHARED)
    if room.f_flag & getattr(os, "ST_RDONLY", 0):
        raise SharedMemoryError(errno.EROFS, f"{what}: {SHARED} is mounted read-only; mount it to be written")
    free = room.f_bavail * room.f_frsize
    # A file system without a size of its own says 0.
    if room.f_blocks and free < needed + OVERHEAD:
        raise SharedMemoryError(
            errno.ENOSPC,
            f"{what}: {SHARED} has {free} bytes left, and {needed + OVERHEAD} are needed: give the topic "
            "fewer receivers=, held= or behind=, a smaller nbytes=, or make it larger (docker run "
            "--shm-size)",
        )


def settings() -> Any:
    """The engine's settings for topics. It removes no dead process by itself: it would wait for ever for what
    that was making (see `_files`)."""
    config = iox.config.global_config()
    found = config.global_cfg
    if found.root_path.to_string() == USUAL_ROOT and os.path.isdir(SHARED):
        found.root_path = iox.Path.new(ROOT)
    found.node.cleanup_dead_nodes_on_creation = False
    found.node.cleanup_dead_nodes_on_destruction = False
    found.service.cleanup_dead_nodes_on_open = False
    return config


def open_node(name: str) -> Any:
    """This end's entry among the processes of the machine, once what the dead had is free. Signals stay the
    program's own."""
    config = settings()
    builder = iox.NodeBuilder.new().config(config).signal_handling_mode(iox.SignalHandlingMode.Disabled)
    reap(config)
    try:
        return builder.name(iox.NodeName.new(f"lifecycle {name}"[:100])).create(ipc)
    except iox.NodeCreationFailure as error:
        raise refused(f"topic {name!r} cannot be opened", error) from None


def refused(what: str, error: BaseException) -> Exception:
    """What the engine's refusal means."""
    reason = text_of_reason(error)
    if "IncompatibleTypes" in reason or "IncompatibleMessagingPattern" in reason:
        return TopicError(
            f"{what}: the service of this name is none of this library's topics, or one of another version "
            f"of it ({reason}); choose another name, or use one version at both ends"
        )
    if "Permission" in reason:
        return SharedMemoryError(
            f"{what}: it belongs to another user, or shared memory cannot be written ({reason}). Topics are "
            "for processes of one user; see the rights of /dev/shm and /dev/shm/iceoryx2"
        )
    if "HangsInCreation" in reason:
        return SharedMemoryError(
            f"{what}: a part of its files in /dev/shm is missing ({reason}). They were removed by hand, or "
            "who made them died in the middle: end the processes at the topic, or choose another name"
        )
    if (
        "Corrupt" in reason
        or "InternalFailure" in reason
        or "InternalError" in reason
        or "UniqueNodeId" in reason
        or "Inconsistent" in reason
    ):
        return SharedMemoryError(
            f"{what}: its files in /dev/shm cannot be made or read ({reason}). They are "
            "full, read-only, removed by hand, another user's, or of another version of iceoryx2"
        )
    return TransportError(f"{what}: iceoryx2 says {reason}")


def service_name(name: str) -> Any:
    """The engine's form of a name. Raises `TopicError`."""
    try:
        return iox.ServiceName.new(name)
    except iox.SemanticStringError as error:
        raise TopicError(f"{name!r} is no topic's name: iceoryx2 says {text_of_reason(error)}") from None


def frames_service(node: Any, name: str) -> Any:
    """The builder of the service that carries frames."""
    return (
        node.service_builder(service_name(name))
        .publish_subscribe(iox.Slice[Line])
        .user_header(Head)
        .payload_alignment(iox.Alignment.new(LINE))
    )


def event_service(node: Any, name: str, ports: int) -> Any:
    """The event of a topic, opened or created."""
    builder = node.service_builder(service_name(name)).event()
    return builder.max_listeners(ports).max_notifiers(ports).max_nodes(ports + SPARE_NODES).open_or_create()


def joins_service(node: Any, name: str, ports: int) -> Any:
    """The event by which receivers ring."""
    return event_service(node, name + RING, ports)


def lives(name: str) -> list[int]:
    """The lives of the topic's publisher that are still known, the oldest first."""
    start = name + LIFE
    found = []
    for details in iox.Service.list(settings(), ipc):
        called = details.name().to_string() if details is not None else ""
        if called.startswith(start) and called[len(start) :].isdigit():
            found.append(int(called[len(start) :]))
    return sorted(found)


def _one_key(builder: Any) -> Any:
    """Have keys compared without Python code. The engine compares them by a function of its own in Python,
    and ends the process when that raises, as it does where a Ctrl-C strikes in it."""
    # It is given two addresses. There is one key, so whatever lies there is the same.
    return builder.__set_key_eq_cmp_func(operator.is_not)


def board_of(node: Any, name: str, epoch: int) -> Any:
    """The blackboard of one life; raises the engine's own error where there is none. Each has its own: the
    entry of a writer that was killed is never free again."""
    builder = node.service_builder(service_name(f"{name}{LIFE}{epoch}")).blackboard_opener(Key)
    return _one_key(builder).open()


def new_board(node: Any, name: str, epoch: int, readers: int) -> Any:
    """That blackboard, created."""
    builder = node.service_builder(service_name(f"{name}{LIFE}{epoch}")).blackboard_creator(Key)
    return _one_key(builder).add(Key(1), Facts()).max_readers(readers).max_nodes(readers).create()


def reap(config: Any, only: set[int] | None = None) -> tuple[int, int]:
    """Free what dead processes had, all of them or the nodes `only`: how many were freed, and at how many
    that failed, with those that had not come so far as to have anything.

    The GIL is released meanwhile. A child that is forked in the middle of it can free nothing itself.
    """
    found = config.global_cfg
    place = Place(found.root_path.to_string(), found.prefix.to_string(), SHARED)
    living, dead = set(), {}
    try:
        for state in iox.Node.list(ipc, config):
            view = getattr(state, "_0", None)
            if isinstance(view, iox.DeadNodeView):
                dead[view.id.value] = view
            else:
                alive: Any = getattr(view, "id", view)
                living.add(int(alive.value))
    except iox.NodeListFailure:
        # Another user's, or removed: whoever opens something there is told.
        return 0, 0
    freed = failed = 0
    for identity, view in dead.items():
        if only is not None and identity not in only:
            continue
        try:
            if place.finish(identity, living):
                view.blocking_remove_stale_resources(_PATIENCE)
                freed += 1
                continue
        except (iox.NodeCleanupFailure, OSError):
            pass
        failed += 1
    if only is None:
        failed += place.sweep(living, set(dead))
    return freed, failed


_PATIENCE: Final = iox.Duration.from_millis(250)
"""For which another process that removes the same is waited for."""


class Ends:
    """The open ends of one topic in this process, of one publisher or receiver. Whoever uses them keeps
    them."""

    __slots__ = ("__weakref__", "kept", "node", "service")

    def __init__(self, name: str) -> None:
        self.node = open_node(name)
        self.service: Any = None
        self.kept: list[Any] = [self.node]

    def hold(self, end: Any) -> Any:
        """Remember an end, for `keep`."""
        self.kept.append(end)
        return end

    def keep(self) -> None:
        """In a forked child: destroy nothing, ever."""
        for end in self.kept:
            keep_for_ever(end)

    def nodes(self) -> list[tuple[int, str, str, int]]:
        """The processes at this topic, this end's own left out: pid, executable, state, identity."""
        found = []
        mine = self.node.id.value
        for state in self.service.nodes:
            view = getattr(state, "_0", None)
            identity = getattr(view, "id", None)
            if view is None or identity is None or identity.value == mine:
                continue
            kind = type(state).__name__.rpartition("_")[2].lower()
            details = view.details
            if details is None:
                found.append((_pid(identity), "", kind, identity.value))
            else:
                executable = details.executable.to_string()
                found.append((int(details.process_id), executable, kind, identity.value))
        return found


def _pid(identity: Any) -> int:
    return int(identity.pid(ipc))


def reserve(publisher: Any, nbytes: int, frames: int) -> str:
    """Have the pages of a publisher's memory reserved, so that no write fails for want of one. Returns how
    that was done; raises `SharedMemoryError` where there is no room."""
    path = _segment(publisher)
    if path is not None and hasattr(os, "posix_fallocate"):
        # K2: whoever has opened it closes it.
        for descriptor in taking(partial(os.open, path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))):
            try:
                os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
            except OSError as error:
                raise SharedMemoryError(
                    error.errno,
                    f"there is no room for {frames} frames of {nbytes} bytes in shared memory "
                    f"({error.strerror}): give the topic fewer receivers=, held= or behind=, a smaller "
                    "nbytes=, or make /dev/shm larger (docker run --shm-size)",
                ) from None
            finally:
                os.close(descriptor)
            return "reserved"
    if os.path.isdir(SHARED):
        return "compared with the free space"
    return "not reserved on this platform"


def _segment(publisher: Any) -> str | None:
    """The file of a publisher's memory, by the engine's private name for it."""
    end = f"_{publisher.id.value}.data"
    try:
        with os.scandir(SHARED) as entries:
            for entry in entries:
                if entry.name.startswith("iox2_") and entry.name.endswith(end):
                    return entry.path
    except OSError:
        return None
    return None


class Watch:
    """True if processes still run, asked of the system at once where it tells (Linux)."""

    def __init__(self) -> None:
        self._poll: Any = select.poll() if hasattr(select, "poll") and hasattr(os, "pidfd_open") else None
        self._descriptors: dict[int, int] = {}
        self._events: Any = None
        self._owner = os.getpid()

    def listen(self, listener: Any) -> bool:
        """Wake for an event of the engine as well; whether that can be had. Called before all else."""
        if self._poll is None:
            return False
        poll = select.epoll()
        # The engine waits by select(), which knows no more.
        if poll.fileno() >= MOST_DESCRIPTORS:
            return False
        try:
            builder = iox.WaitSetBuilder.new()
            waits = builder.signal_handling_mode(iox.SignalHandlingMode.Disabled).create(ipc)
            descriptor = iox.FileDescriptor.non_owning_new(poll.fileno())
            # What is attached is so for as long as its guard is kept.
            guards = waits.attach_notification(listener), waits.attach_notification_fd(descriptor)
        except (iox.WaitSetCreateError, iox.WaitSetAttachmentError):
            return False
        self._poll = poll
        self._events = (waits, guards, listener)
        return True

    def follow(self, pids: set[int]) -> None:
        """Watch these, and no others."""
        for pid in set(self._descriptors) - pids:
            self._drop(pid)
        if self._poll is None:
            return
        for pid in pids - set(self._descriptors):
            try:
                # K2: opened and known in one step.
                for self._descriptors[pid] in taking(partial(os.pidfd_open, pid)):  # noqa: B020
                    break
            except OSError:
                continue  # it has ended, in another namespace perhaps: the engine's own look finds it
            self._poll.register(self._descriptors[pid], select.POLLIN)

    def follows(self, pid: int) -> bool:
        """Whether the system tells when this one has ended."""
        return pid in self._descriptors

    def also(self, descriptor: int) -> None:
        """Wake for this one as well."""
        if self._poll is not None:
            self._poll.register(descriptor, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Wait until one has ended, something else has come, or `seconds` are over; whether one has ended."""
        if self._poll is None:
            time.sleep(seconds)
            return False
        if self._events is not None:
            try:
                self._events[0].wait_and_process_with_timeout(iox.Duration.from_micros(int(seconds * 1e6)))
            except iox.WaitSetRunError:
                time.sleep(min(seconds, UNHEARD))
            seconds = 0
        ready = {descriptor for descriptor, _ in self._poll.poll(seconds * 1000)}
        over = [pid for pid, descriptor in self._descriptors.items() if descriptor in ready]
        for pid in over:
            self._drop(pid)
        return bool(over)

    def _drop(self, pid: int) -> None:
        # K2: whoever takes it closes it.
        for descriptor in taking(partial(self._descriptors.pop, pid, -1)):
            if descriptor < 0:
                return
            try:
                self._poll.unregister(descriptor)
            except KeyError:
                # An interrupt came before it was registered.
                pass
            finally:
                os.close(descriptor)
            return

    def close(self) -> None:
        """Stop watching. May be repeated."""
        if self._events is not None and self._owner != os.getpid():
            # In a forked child: what is taken out of an epoll is taken out of the parent's.
            return
        self._events = None
        for pid in list(self._descriptors):
            self._drop(pid)

    def __del__(self) -> None:
        # What is closed before loses nothing by an interrupt in here.
        if getattr(self, "_descriptors", None):
            self.close()


def another_publisher(name: str, ends: Ends) -> SecondPublisherError:
    """The refusal of a second publisher, which names the first."""
    others = ", ".join(
        f"{executable or 'a process'} (pid {pid}, {state})" for pid, executable, state, _ in ends.nodes()
    )
    return SecondPublisherError(
        f"topic {name!r} has a publisher, and there is one at a time; processes at the topic: "
        f"{others or 'this one'}. Close that one first, or choose another name"
    )
