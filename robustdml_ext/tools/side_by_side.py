"""Several runs at once, each a process of its own with a GPU, or its share of the CPU's threads, and a log file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from robustdml_ext.tools.lanes import Lane
from robustdml_ext.tools.planned_runs import Tell
from robustdml_ext.tools.table_plan import TableRun

LOG = "output.log"
_POLL = 0.1  # seconds
_PROGRAM = (sys.executable, "-m", "robustdml_ext.run")


@dataclass
class _Flight:
    """A run in flight."""

    run: TableRun
    lane: Lane
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    began: float = field(default_factory=time.monotonic)


def run_side_by_side(
    runs: Sequence[TableRun],
    lanes: Sequence[Lane],
    console: Console,
    tell: Tell,
    after: Callable[[], None],
    *,
    finished_before: int = 0,
    held: int | None = None,
) -> list[TableRun]:
    """Make the runs, as many at once as there are lanes, and return those that failed.

    The first Ctrl-C or SIGTERM asks those in flight to stop: they save a checkpoint, and the same command goes on. The
    second one kills them.

    Args:
        runs: what is left to do.
        lanes: one for each run at a time.
        console: a terminal shows what is in flight.
        tell: says a line.
        after: called after every run that ended well.
        finished_before: runs that are not among these, for the count.
        held: number of an open file that the processes inherit.

    Raises:
        KeyboardInterrupt: it was asked to stop, and all processes have ended.
    """
    fleet = _Fleet(list(runs), list(lanes), tell, after, finished_before, held)
    with _Asked() as asked, _Screen(fleet, console):
        try:
            while fleet.waiting or fleet.flying:
                if asked.times and not fleet.stopping:
                    fleet.stop()
                if asked.times > 1:
                    fleet.kill()
                fleet.land()
                fleet.start()
                time.sleep(_POLL)
        finally:
            fleet.kill()  # nothing is in flight any more, unless this loop itself failed
    if asked.times:
        raise KeyboardInterrupt
    return fleet.failed


class _Fleet:
    """The processes: those in flight, and what is to follow."""

    def __init__(
        self,
        runs: list[TableRun],
        lanes: list[Lane],
        tell: Tell,
        after: Callable[[], None],
        before: int,
        held: int | None,
    ) -> None:
        self.waiting, self.free, self.flying = runs, lanes, list[_Flight]()
        self.failed: list[TableRun] = []
        self.done, self.total, self.lanes = before, before + len(runs), len(lanes)
        self.took: list[float] = []
        self.stopping = False
        self._tell, self._after, self._held = tell, after, held

    def start(self) -> None:
        """Start what there are lanes for."""
        while self.waiting and self.free and not self.stopping:
            run, lane = self.waiting.pop(0), self.free.pop(0)
            run.folder.mkdir(parents=True, exist_ok=True)
            log = open(run.folder / LOG, "ab")  # noqa: SIM115 - lives as long as the process
            process = subprocess.Popen(
                command_of(run, lane),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(lane),
                pass_fds=() if self._held is None else (self._held,),
                start_new_session=True,  # a terminal's Ctrl-C is for this process, which passes on one request to stop
            )
            self.flying.append(_Flight(run, lane, process, log))
            where = f" on {lane.device}" if lane.device else ""
            self._tell(f"started{where}: {run.what} ({run.folder / LOG})")

    def land(self) -> None:
        """Take note of what has ended."""
        for flight in [flight for flight in self.flying if flight.process.poll() is not None]:
            self.flying.remove(flight)
            self.free.append(flight.lane)
            flight.log.close()
            code, run = flight.process.returncode, flight.run
            if code == 0:
                self.done += 1
                self.took.append(time.monotonic() - flight.began)
                self._tell(
                    f"finished, {self.done} of {self.total}: {run.what} ({duration(self.took[-1])}{self._left()})"
                )
                self._after()
            elif self.stopping:
                self._tell(f"stopped: {run.what}")
            else:
                self.failed.append(run)
                how = f"exit code {code}" if code > 0 else f"signal {-code}"
                self._tell(f"failed ({how}): {run.what}: {_last_line(run.folder / LOG)}; all in {run.folder / LOG}")

    def _left(self) -> str:
        seconds = self.seconds_left()
        return "" if not seconds else f", about {duration(seconds)} left"

    def seconds_left(self) -> float | None:
        """How long the rest will take, if it takes as long as what is done; None where nothing is yet."""
        if not self.took:
            return None
        mean = sum(self.took) / len(self.took)
        now = time.monotonic()
        flying = sum(max(0.0, mean - (now - flight.began)) for flight in self.flying)
        return (flying + mean * len(self.waiting)) / self.lanes

    def stop(self) -> None:
        """Ask what is in flight to stop, and start nothing more."""
        self.stopping = True
        self.waiting.clear()
        self._tell(f"stopping: {len(self.flying)} runs save their state; once more to kill them")
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End what is in flight at once."""
        self._signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        for flight in self.flying:
            flight.process.wait()

    def _signal(self, number: int) -> None:
        for flight in self.flying:
            if flight.process.poll() is None:
                flight.process.send_signal(number)


def command_of(run: TableRun, lane: Lane) -> list[str]:
    """Return the command of a run in its lane. The device and threads that were asked for stay."""
    given = {word.partition("=")[0] for word in run.words if word.startswith("--")}
    words = [*run.words]
    if lane.device is not None:
        words += ["--device", lane.device]  # the last of two counts
    if lane.threads is not None and "--threads" not in given:
        words += ["--threads", str(lane.threads)]
    return [*_PROGRAM, *words, *([] if "--resume" in given else ["--resume"])]


def _environment(lane: Lane) -> dict[str, str]:
    """Where the package is found from any folder, as here, and threads for libraries that --threads does not reach."""
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    if lane.threads is not None:
        environment.setdefault("OMP_NUM_THREADS", str(lane.threads))
    return environment


def _last_line(log: Path) -> str:
    """What a run said last, of its error if it named one."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("robustdml_ext:")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("robustdml_ext: ")


def duration(seconds: float) -> str:
    """Return a time for the reader: 12 s, 3:05 min, 2:07 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


class _Asked:
    """While active, counts Ctrl-C and SIGTERM."""

    def __init__(self) -> None:
        self.times = 0
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.times += 1

    def __enter__(self) -> _Asked:
        # Python lets only the main thread set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Screen:
    """On a terminal, what is in flight, done and failed, and how long it may take; nothing elsewhere."""

    def __init__(self, fleet: _Fleet, console: Console) -> None:
        self._fleet = fleet
        self._live = Live(console=console, get_renderable=self._show, refresh_per_second=1, transient=True)
        self._terminal = console.is_terminal

    def _show(self) -> Table:
        fleet = self._fleet
        left = fleet.seconds_left()
        title = f"{fleet.done} of {fleet.total} runs done, {len(fleet.waiting)} to come"
        title += f", {len(fleet.failed)} failed" if fleet.failed else ""
        title += "" if left is None else f", about {duration(left)} left"
        table = Table("in flight", "on", "epoch", "for", title=title, title_justify="left")
        now = time.monotonic()
        for flight in fleet.flying:
            device = flight.lane.device or "cpu"
            table.add_row(flight.run.what, device, _epoch(flight.run), duration(now - flight.began))
        return table

    def __enter__(self) -> None:
        if self._terminal:
            self._live.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._live.stop()


def _epoch(run: TableRun) -> str:
    """The last epoch that a run has on disk."""
    try:
        lines = (run.folder / "metrics.jsonl").read_bytes().splitlines()
        return str(json.loads(lines[-1])["epoch"])
    except (OSError, IndexError, KeyError, ValueError):
        return ""
