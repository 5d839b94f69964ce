"""Where a recorder's files are: made so that nothing is overwritten or followed, found again, cleared away.

`{pid}` in a path is the process's id. Files are made with ``O_EXCL`` and ``O_NOFOLLOW``, mode 0600, and
allocated before they are mapped: a sparse file on a full disk kills the program with SIGBUS at the first new
page. A path that is taken gets ``-1``, ``-2``, … before its suffix.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
import sys
from collections.abc import Iterator
from struct import error as StructError

import attrs

from lifecycle.recorder import layout
from lifecycle.recorder.errors import RecorderError, RecordingError

TRIES = 100
"""How many numbers are tried behind a path that is taken."""
MOST_FILES = 1000
"""How many files of one pattern are looked at."""


def path_of(pattern: str, number: int = 0) -> str:
    """The path that `pattern` means for this process; the `number`-th other one where it is taken."""
    path = os.path.abspath(pattern.replace("{pid}", str(os.getpid())))
    if not number:
        return path
    root, suffix = os.path.splitext(path)
    return f"{root}-{number}{suffix}"


def text_of(path: object) -> str | None:
    """A path as text, None for what is none."""
    try:
        return os.fsdecode(path)  # type: ignore[arg-type]
    except TypeError:
        return None


def make(pattern: str, size: int) -> tuple[str, int]:
    """Make and allocate the file of this process. Returns its path and descriptor; raises `RecorderError`."""
    if "\0" in pattern or not os.path.basename(pattern):
        raise RecorderError(f"{pattern!r} is no path of a file: give one such as 'camera-{{pid}}.rec'")
    if os.path.isdir(path_of(pattern)):
        example = os.path.join(pattern, "camera-{pid}.rec")
        raise RecorderError(f"{pattern!r} is a folder: name a file in it, such as {example!r}")
    folder = os.path.dirname(path_of(pattern))
    try:
        there = os.stat(folder)
    except OSError as error:
        raise _refusal(pattern, error) from None
    if there.st_mode & stat.S_IWOTH and not there.st_mode & stat.S_ISVTX:
        raise RecorderError(
            f"no recorder in {folder}: every user may replace files there (mode {there.st_mode & 0o7777:o}); "
            "choose a folder of your own, or set its sticky bit (chmod +t)"
        )
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    for number in range(TRIES):
        path = path_of(pattern, number)
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileExistsError:
            continue
        except OSError as error:
            raise _refusal(path, error) from None
        try:
            _allocate(descriptor, size)
        except OSError as error:
            os.close(descriptor)
            os.unlink(path)
            raise _refusal(path, error, size) from None
        except BaseException:
            os.close(descriptor)
            os.unlink(path)
            raise
        return path, descriptor
    raise RecorderError(
        f"no recorder at {path_of(pattern)}: it and {TRIES - 1} numbered ones beside it are taken; remove "
        "some, or put {pid} into the path"
    )


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    block = bytes(1 << 20)  # pragma: no cover - macOS and Windows
    while size > 0:  # pragma: no cover
        size -= os.write(descriptor, block[:size])


def _refusal(path: str, error: OSError, size: int = 0) -> RecorderError:
    why = error.strerror or str(error)
    remedy = "choose another path"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = f"it needs {size:,} bytes: make room, or ask for fewer slots="
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "choose a folder that this process may write to"
    elif error.errno == errno.ENOENT:
        remedy = "make the folder first"
    elif error.errno == errno.ELOOP:
        remedy = "symbolic links are not followed: name the file itself"
    return RecorderError(f"no recorder at {path[:300]}: {why}; {remedy}")


# -- other processes -----------------------------------------------------------------------------------------


def boot_id() -> str:
    """What names this start of the machine, empty where that is not told."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read(48).strip()
    except OSError:
        return ""


def unknown_end(boot: str, *, elsewhere: bool = False) -> str:
    """In words, how a process may have ended of whose end nothing is written. `boot` is the start of the
    machine on which it ran; `elsewhere` says that faulthandler does not write into its file."""
    now = boot_id()
    causes = ["a signal from outside, such as SIGTERM or SIGKILL (the OOM killer sends that)", "os._exit"]
    since = ". The machine has not been restarted since"
    if not boot or boot != now:
        causes.append("a power loss")
        since = ". The machine has been restarted since, or this is another one" if boot and now else ""
    # Nobody can be asked where faulthandler writes: its text may be where the program sent it later.
    later = "" if elsewhere else " later"
    causes.append(f"a crash whose text went to a faulthandler that the program enabled{later}")
    return f"no fault was recorded. Possible causes: {'; '.join(causes)}{since}"


def start_ticks(pid: int) -> int:
    """When a process was started, in ticks since the machine was; 0 where there is none or that is not
    told."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name may hold anything, also spaces and brackets.
            return int(file.read(4096).rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def lives(pid: int, ticks: int, boot: str) -> bool:
    """Return True if the process that was `pid` then still runs."""
    if boot and boot != boot_id():
        return False
    if ticks:
        return start_ticks(pid) == ticks
    if pid <= 0 or sys.platform == "win32":  # pragma: no cover
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def open_to_read(path: str) -> int:
    """A descriptor of a regular file that is no symbolic link; raises `RecordingError`."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        link = isinstance(error, OSError) and error.errno == errno.ELOOP
        why = "it is a symbolic link: name the file itself" if link else _why(error)
        raise RecordingError(f"{path[:300] or repr(path)} cannot be read: {why}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RecordingError(f"{path[:300]} cannot be read: it is no regular file")
    return descriptor


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


@attrs.frozen
class PreviousRun:
    """A file beside ours whose process is gone and did not say that it ended."""

    path: str
    """The file."""
    pid: int
    """The process's id."""
    started: float
    """Unix time in seconds."""
    changed: float
    """When the file was changed last, as far as the system tells: Unix time in seconds."""
    crash: str
    """The first line that faulthandler wrote; empty where it wrote none, as after SIGKILL or `os._exit`."""
    child: bool
    """It was forked from a process with a recorder."""
    ended: str
    """How it ended, as far as that is known, in words."""


@attrs.frozen
class _Seen:
    path: str
    pid: int
    started: float
    changed: float
    crash: str
    clean: bool
    child: bool
    live: bool
    boot: str
    elsewhere: bool


def glob_of(pattern: str) -> str:
    """`pattern` as one for `glob`: any process, and any number behind it."""
    root, suffix = os.path.splitext(os.path.abspath(pattern))
    return glob.escape(root).replace("{pid}", "*") + "*" + glob.escape(suffix)


def seen(pattern: str) -> Iterator[_Seen]:
    """What files of `pattern` and of this user there are; those that are no recordings are passed over."""
    root, suffix = os.path.splitext(os.path.abspath(pattern))
    form = re.compile(
        re.escape(root).replace(re.escape("{pid}"), r"\d+") + r"(-\d{1,2})?" + re.escape(suffix) + r"\Z"
    )
    for path in sorted(glob.iglob(glob_of(pattern)))[:MOST_FILES]:
        if not form.match(path):
            continue
        try:
            descriptor = open_to_read(path)
        except RecordingError:
            continue
        try:
            found = _look(path, descriptor)
        except (OSError, StructError, ValueError):
            found = None
        finally:
            os.close(descriptor)
        if found is not None:
            yield found


def _look(path: str, descriptor: int) -> _Seen | None:
    about = os.fstat(descriptor)
    if hasattr(os, "getuid") and about.st_uid != os.getuid():
        return None
    head = os.pread(descriptor, layout.HEADER_SIZE, 0)
    magic, version, flags, *regions = layout.REGIONS.unpack_from(head)
    if magic != layout.MAGIC or version != layout.VERSION:
        return None
    pid, _, ticks, wall, _, _, _, _, boot, *_ = layout.FACTS.unpack_from(head, layout.FACTS_AT)
    (state,) = layout.STATE.unpack_from(head, layout.STATE_AT)
    end = regions[-3] + regions[-2] * regions[-1]
    text = os.pread(descriptor, 200, end) if end < about.st_size else b""
    crash = text.decode("utf-8", "replace").split("\n", 1)[0] if text.startswith(b"Fatal") else ""
    machine = boot.rstrip(b"\0").decode("ascii", "replace")
    return _Seen(
        path,
        pid,
        wall,
        about.st_mtime,
        crash,
        state == layout.CLEAN and not crash,
        bool(flags & layout.CHILD),
        lives(pid, ticks, machine),
        machine,
        bool(flags & layout.TEXT_IS_THE_PROGRAMS),
    )


def previous_runs(pattern: str) -> tuple[PreviousRun, ...]:
    """The files of `pattern` whose processes are gone and did not say that they ended, the oldest first.
    Raises `RecordingError` for what is no path."""
    text = text_of(pattern)
    if text is None:
        raise RecordingError(f"previous_runs() takes the path that the recorder was given, not {pattern!r}")
    runs = [one for one in seen(text) if not one.clean and not one.live]
    return tuple(_public(one) for one in sorted(runs, key=lambda one: one.started))


def _public(one: _Seen) -> PreviousRun:
    ended = one.crash or unknown_end(one.boot, elsewhere=one.elsewhere)
    return PreviousRun(one.path, one.pid, one.started, one.changed, one.crash, one.child, ended)


def tidy(pattern: str, keep: int) -> tuple[PreviousRun, ...]:
    """Remove the files of runs that ended well, and all but the newest `keep` of those that did not. Returns
    those that no run before this one can have announced."""
    there = list(seen(pattern))
    me = os.getpid()
    gone = [one for one in there if not one.live or (one.clean and one.pid == me)]
    gone.sort(key=lambda one: one.started)
    unclean = [one for one in gone if not one.clean]
    # A run that began after the file was changed last has announced it.
    announced = max((one.started for one in there if not one.child), default=0.0)
    fresh = [one for one in unclean if one.started >= announced or one.changed > announced]
    kept = unclean[-keep:] if keep else []
    for one in gone:
        if one not in kept:
            try:
                os.unlink(one.path)
            except OSError:
                # Another process was quicker, or the folder is read-only: it stays.
                continue
    # A forked child that ends by `os._exit` leaves no clean end, and that is no crash.
    return tuple(_public(one) for one in fresh if one in kept and (one.crash or not one.child))
