"""Several processes as one: the workers of a pre-fork server add up, whichever of them is scraped.

**The problem.** A scrape reaches one worker of several, by chance. It would show that one's figures: counters
that jump from one scrape to the next. prometheus_client's own multi-process mode takes no custom collectors.

**The idea.** Each worker writes what it would show into a file of its own in one directory, every `interval`
seconds, and before it answers a scrape; who is scraped adds up what is there. Counters of workers that have
ended are kept, in one file for all of them, and their gauges are not. A figure is written before it is shown,
and files are replaced in one step: so a counter never goes down, whichever worker is asked, also where one
is killed (what it counted since its last writing, an `interval` at most, is lost).

**Who lives** is known by a lock that each worker has on a file of its own, and that the system takes away
with the process, however it ends. It is a POSIX record lock, which no child inherits. One more, on the file
of those that have ended, has one worker at a time read and tidy up. A process refuses itself no such lock,
and loses one when it closes the file anywhere: so the collectors of one process know each other by a table,
and take turns by a lock of threads.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from prometheus_client import Metric
from prometheus_client.registry import Collector

from lifecycle import RegistrationError, SafetyManager
from lifecycle.errors import ConfigError
from lifecycle.integrations.prometheus.collector import LifecycleCollector
from lifecycle.integrations.prometheus.families import PER_PROCESS
from lifecycle.lowlevel import Flag, Uncopied

try:
    import fcntl
except ImportError:  # Windows, which has no pre-fork servers
    fcntl = None  # type: ignore[assignment]

INTERVAL: Final = 1.0
"""Seconds between two writings, unless told otherwise."""
KEPT: Final = ("counter", "histogram")
"""The types of families that outlive their worker."""
OF_PROCESS: Final = frozenset(f"lifecycle_{row.name}" for row in PER_PROCESS)
"""Families that one collector of a process has to tell of alone: each would say the same."""
GONE: Final = "gone"
"""The name of the file of workers that have ended."""

_open: dict[str, WorkersCollector] = {}
"""The collectors that are open, by name, the oldest first; those of the process that this was forked from as
well."""
_turns: dict[int, threading.RLock] = {}
"""By process: one thread at a time reads and tidies up. A forked child has one of its own."""

Sample = tuple[str, tuple[tuple[str, str], ...]]
Figures = dict[Sample, float]


class WorkersCollector(Uncopied, Collector):
    """A prometheus_client collector for a server with several worker processes: each makes one, and whichever
    is scraped shows all of them, added up.

    ::

        def post_fork(server, worker):                    # gunicorn.conf.py
            manager = SafetyManager(name="app")
            REGISTRY.register(WorkersCollector(manager, directory="/run/app/metrics"))

    Parameters
    ----------
    managers:
        As of `LifecycleCollector`. Managers of one name in several workers are one in the figures.
    directory:
        The same for all workers of a server, and for nobody else; it is made if need be. Empty it when the
        server starts, or counters go on from where the last one was.
    interval:
        Seconds between two writings of what this worker has: so old the figures of the others are at most,
        and so much is lost of one that is killed.

    Counters and histograms are sums over all workers that there were; gauges are sums over those that live
    (of ages the oldest, of the last runs the latest, of lags the largest). What is of the process, as a
    recorder's figures, is told once for all of a process's collectors with one directory. All workers have
    the same configuration: buckets are added one by one. A collector lives until it is closed, or the process
    ends, and is that of the process that made it: asked in a forked child it raises `RegistrationError`. All
    methods may be called on any thread, and none in a signal handler.

    Raises `ConfigError` for a directory or interval that is none, and on Windows; `RegistrationError` as
    `LifecycleCollector` does.
    """

    _remedy = "make another in the process that is to have it"

    def __init__(
        self, *managers: SafetyManager, directory: str | os.PathLike[str], interval: float = INTERVAL
    ) -> None:
        if fcntl is None:
            raise ConfigError("WorkersCollector needs POSIX locks, which Windows does not have; give every "
                              "process a port of its own")  # fmt: skip
        if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not 0.01 <= interval < 1e6:
            raise ConfigError(f"WorkersCollector(interval=) takes seconds, 0.01 or more, not {interval!r}")
        process = os.getpid()
        name = f"worker-{process}-{os.urandom(4).hex()}"
        own = LifecycleCollector(*managers)
        try:
            self._directory = Path(directory)
            self._directory.mkdir(parents=True, exist_ok=True)
            alive: Any = (self._directory / f"{name}.lock").open("w")
        except (TypeError, OSError) as error:
            raise ConfigError(
                f"WorkersCollector(directory=) takes a directory that can be written, not {directory!r}: "
                f"{error}"
            ) from error
        self._own = own
        self._process = process
        self._name = name
        self._lock = threading.RLock()
        self._alive = alive
        self._over = Flag()
        self._leaving = False
        """It is being closed, and tells of its process no more."""
        fcntl.lockf(alive, fcntl.LOCK_EX)
        _open[name] = self
        writer = threading.Thread(
            target=self._write_now_and_then, args=(interval,), name=f"lifecycle-{name}", daemon=True
        )
        try:
            self.write()
            writer.start()
        except BaseException:
            self._leave()
            raise
        atexit.register(self.write)

    def add(self, manager: SafetyManager) -> None:
        """As `LifecycleCollector.add`."""
        self._own.add(manager)

    def remove(self, manager: SafetyManager) -> None:
        """As `LifecycleCollector.remove`: its series end with this worker's part of them."""
        self._own.remove(manager)

    def describe(self) -> Iterable[Metric]:
        """As `LifecycleCollector.describe`."""
        return self._own.describe()

    def collect(self) -> Iterable[Metric]:
        """Every family, with what all workers say together."""
        self._refuse_elsewhere()
        mine = self._write()
        with self._turn():
            live, gone = self._read_all()
        figures = added_up([*live, gone])
        return [_family_of(family, figures) for family in mine]

    def write(self) -> None:
        """Write what this worker has now, as is done every `interval` seconds and as the process ends."""
        if os.getpid() == self._process and not self._over:
            self._write()

    def close(self) -> None:
        """Write for the last time, and count among those that have ended. Calling twice is calling once."""
        if os.getpid() != self._process:
            # Not under the lock, which a thread may have had as this process was forked.
            return
        with self._turn(), self._lock:
            if self._over:
                return
            # In one turn with the next, so that the figures of the process are neither missing nor doubled.
            # It stays open until it has written: it may be that it cannot, and goes on.
            self._leaving = True
            self._write()
            heir = self._first()
            if heir is not None:
                heir._write()
            self._leave()
        atexit.unregister(self.write)

    # -- inside ----------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Count among those that have ended."""
        self._over.set()
        _open.pop(self._name, None)
        self._alive.close()

    def _first(self) -> WorkersCollector | None:
        """The oldest of this process with this directory: the one that tells of the process."""
        for one in list(_open.values()):
            if one._process == self._process and one._directory == self._directory and not one._leaving:
                return one
        return None

    def _refuse_elsewhere(self) -> None:
        if os.getpid() != self._process:
            raise RegistrationError(
                f"this WorkersCollector was made in process {self._process} and is asked in {os.getpid()}: "
                "make it in the worker, after the fork (gunicorn's post_fork, uWSGI's @postfork), beside the "
                "managers that it collects"
            )
        if self._over:
            raise RegistrationError("this WorkersCollector was closed; unregister it, or make another")

    def _write_now_and_then(self, interval: float) -> None:
        while not self._over.wait(interval):
            with contextlib.suppress(OSError):
                # A full disk: the next one may be written.
                self.write()

    def _write(self) -> list[Metric]:
        """Replace this worker's file, and return what is in it."""
        with self._lock:
            families = list(self._own.collect())
            first = self._first()
            of_process = OF_PROCESS if first is not None and first is not self else frozenset()
            samples = [
                [sample.name, sorted(sample.labels.items()), sample.value, family.type not in KEPT]
                for family in families
                if family.name not in of_process
                for sample in family.samples
            ]
            if not self._over:
                # Else it was closed meanwhile, and another worker may have counted it among those that ended.
                _replace(self._directory / f"{self._name}.json", {"samples": samples})
            return families

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep other threads of this process, and other workers, from reading or tidying up meanwhile."""
        with (
            _turns.setdefault(self._process, threading.RLock()),
            (self._directory / f"{GONE}.lock").open("w") as file,
        ):
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    def _read_all(self) -> tuple[list[Figures], Figures]:
        """What the workers that live have written, and the counters of the others."""
        gone_file = self._directory / f"{GONE}.json"
        told = _read(gone_file) or {"samples": [], "included": []}
        gone = _figures(told["samples"], True)
        included = set(told["included"])
        live, ended = [], []
        for file in sorted(self._directory.glob("worker-*.json")):
            name = file.stem
            if not self._has_ended(name):
                live.append(_figures((_read(file) or {"samples": []})["samples"], True))
                continue
            ended.append(name)
            if name not in included:
                counters = _figures((_read(file) or {"samples": []})["samples"], False)
                gone = added_up([gone, counters])
        if ended:
            # First the sum, with what is in it; then the files: whoever is killed in between doubles nothing.
            samples = [[name, list(labels), value, False] for (name, labels), value in gone.items()]
            for rest in self._directory.glob(f"{GONE}.*.new"):
                # Whoever wrote it was killed: it is this one's turn.
                rest.unlink(missing_ok=True)
            _replace(gone_file, {"samples": samples, "included": ended})
            for name in ended:
                # Also what it was killed in the middle of writing. That it is known by goes last.
                for rest in (*self._directory.glob(f"{name}.*.new"), self._directory / f"{name}.lock"):
                    rest.unlink(missing_ok=True)
                (self._directory / f"{name}.json").unlink(missing_ok=True)
        return live, gone

    def _has_ended(self, name: str) -> bool:
        mine = _open.get(name)
        if mine is not None and mine._process == self._process:
            return False
        try:
            with (self._directory / f"{name}.lock").open("r+") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        except FileNotFoundError:
            return True
        except OSError:
            return False


def _replace(file: Path, content: Any) -> None:
    """Give `file` this content in one step."""
    new = file.with_suffix(f".{os.getpid()}-{os.urandom(4).hex()}.new")
    try:
        new.write_text(json.dumps(content))
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None


def _figures(samples: Iterable[Any], gauges: bool) -> Figures:
    """What was written, by name and labels; with or without the gauges."""
    return {
        (name, tuple((label, text) for label, text in labels)): value
        for name, labels, value, gauge in samples
        if gauges or not gauge
    }


def added_up(parts: Iterable[Figures]) -> Figures:
    """The figures of several workers as one."""
    whole: Figures = {}
    for part in parts:
        for sample, value in part.items():
            before = whole.get(sample)
            whole[sample] = value if before is None else _together(sample[0], before, value)
    return whole


def _together(name: str, one: float, other: float) -> float:
    """Two workers' readings of one series."""
    if "oldest" in name:
        return min(value for value in (one, other, 0.0) if value) if one or other else 0.0
    if name.endswith(("_timestamp_seconds", "_info", "_crashed")) or "_lag_" in name:
        return max(one, other)
    return one + other


def _family_of(family: Metric, figures: Figures) -> Metric:
    """The family, with the figures of all."""
    whole = Metric(family.name, family.documentation, family.type, family.unit)
    names = {sample.name for sample in family.samples} or {family.name, *(
        f"{family.name}{ending}" for ending in ("_total", "_bucket", "_count", "_sum", "_info")
    )}  # fmt: skip
    for (name, labels), value in figures.items():
        if name in names:
            whole.add_sample(name, dict(labels), value)
    return whole
