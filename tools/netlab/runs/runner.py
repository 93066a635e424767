"""Running a scenario: its programs and faults in its network, and what came of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from tools.netlab.draw import draw
from tools.netlab.errors import LabError
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import MAX_EVENTS, Event
from tools.netlab.runs import faults
from tools.netlab.runs.jobs import Job
from tools.netlab.runs.mesh import Mesh
from tools.netlab.runs.report import Report
from tools.netlab.runs.timeline import Timeline, due, first_fault
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.workload import RelayProgram

PATIENCE = 60.0
"""Seconds for which what is wrong in the end must stay wrong: reports take their time on a busy
machine."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    out: a folder for the picture of the run (`paths.svg`), logs and captures; made if needed.
    pcap: nodes whose packets are captured; needs `out`.
    """

    out: Path | None = None
    pcap: tuple[str, ...] = ()


class Run:
    """A scenario that is running; also the stage on which faults act."""

    def __init__(self, lab: Lab, on_event: Callable[[str, Event], None]) -> None:
        self.lab = lab
        programs = lab.scenario.all_programs
        self.mesh = Mesh({one.name for one in programs if isinstance(one, RelayProgram)})
        self.jobs: dict[str, Job] = {}
        for program in programs:
            self.jobs[program.name] = Job(program, lab, self.mesh, self._hear_of(program.name))
        self.failures: list[str] = []
        """Faults that could not be done, and why."""
        self._on_event = on_event
        self._timeline = Timeline(lab.now, first_fault(lab.scenario.faults))

    def _hear_of(self, program: str) -> Callable[[Event], None]:
        def hear(event: Event) -> None:
            self._on_event(program, event)
            for job in self.jobs.values():
                job.mesh_changed()

        return hear

    # --- the stage ---

    def signal(self, program: str, number: int) -> None:
        self.jobs[program].signal(number)

    def kill(self, program: str, *, comes_again: bool) -> None:
        self.jobs[program].kill(comes_again=comes_again)

    async def restart(self, program: str) -> None:
        await self.jobs[program].restart()

    def skew(self, program: str, offset_s: float) -> None:
        self.jobs[program].skew(offset_s)

    # --- running ---

    async def perform(
        self, watch: Callable[[Run], Awaitable[None]] | None = None
    ) -> list[tuple[float, str]]:
        """Run programs and faults to the end of the scenario, and `watch` beside them; the faults
        that were done."""
        scenario = self.lab.scenario
        done: list[tuple[float, str]] = []
        async with trio.open_nursery() as all_of_it:
            all_of_it.start_soon(self._cut_short, all_of_it.cancel_scope)
            if watch is not None:
                all_of_it.start_soon(watch, self)
            async with trio.open_nursery() as nursery:
                for job in self.jobs.values():
                    nursery.start_soon(job.run, self.jobs, self._timeline)
                nursery.start_soon(self._faults, done)
            await trio.sleep(scenario.settle_s)
            all_of_it.cancel_scope.cancel()
        return done

    async def _cut_short(self, scope: trio.CancelScope) -> None:
        await self._timeline.until(self.lab.scenario.duration_s)
        scope.cancel()

    async def _faults(self, done: list[tuple[float, str]]) -> None:
        def tell(t: float, text: str) -> None:
            done.append((t, text))
            self._on_event("", {"event": "fault", "what": text, "t": t})

        scenario = self.lab.scenario
        with trio.move_on_after(scenario.duration_s):
            for name in due(scenario.all_programs, first_fault(scenario.faults)):
                await self.jobs[name].up.wait()
        self._timeline.go_on()
        steps = faults.steps(scenario.faults)
        await faults.play(steps, self._timeline, self.lab, self, tell, self.failures.append)

    def is_apart(self) -> bool:
        """Whether a node is not connected that is to stay so."""
        return any(job.is_apart(self.jobs) for job in self.jobs.values())

    def unheard(self) -> list[str]:
        """Programs that said more than could be kept."""
        return [
            f"{name} said more than {MAX_EVENTS} things; {job.running.lost} were not looked for"
            for name, job in self.jobs.items()
            if job.running is not None and job.running.lost
        ]

    async def stop(self) -> None:
        """End all programs, all at a time."""
        async with trio.open_nursery() as nursery:
            for job in self.jobs.values():
                if job.running is not None:
                    nursery.start_soon(job.running.stop)


async def run_scenario(
    scenario: Scenario,
    options: Options | None = None,
    on_event: Callable[[str, Event], None] = lambda program, event: None,
    judge: Callable[[Run], Sequence[str]] = lambda run: (),
    watch: Callable[[Run], Awaitable[None]] | None = None,
) -> Report:
    """Build the scenario's network, run it, and take everything down.

    `on_event` is called with each event and the program it is from ("" for faults). `judge` sees
    the run at its end, while all still runs, and says what is wrong with it; it is asked again
    until nothing is, for :data:`PATIENCE`. `watch` runs beside the programs, and is cancelled with
    the last fault. Raises :class:`tools.netlab.errors.LabError` and
    :class:`tools.netlab.spec.strict.SpecError` for what keeps it from running at all; what goes
    wrong inside is in the report.
    """
    options = options or Options()
    if options.out is not None:
        _make(options.out)
    async with open_lab(scenario) as lab:
        captures = []
        for node in options.pcap:
            assert options.out is not None
            captures.append(await lab.capture(node, options.out.resolve() / f"{node}.pcap"))
        run = Run(lab, on_event)
        done = await run.perform(watch)
        with trio.move_on_after(PATIENCE):
            while judge(run) or run.is_apart():  # noqa: ASYNC110 (memory and files tell nobody)
                await trio.sleep(0.2)
        # Judged before they are stopped.
        report = Report(
            scenario=scenario.name,
            outcomes=tuple(job.finish(run.jobs) for job in run.jobs.values()),
            paths=tuple(run.mesh.used_paths()),
            faults=tuple(done),
            seconds=round(lab.now(), 3),
            complaints=(*run.failures, *run.unheard(), *run.mesh.complaints, *judge(run)),
        )
        await run.stop()
        for capture in captures:
            await capture.stop()
        if options.out is not None:
            trouble = _keep(options.out, scenario, report, lab, list(run.jobs))
            report = replace(report, complaints=(*report.complaints, *trouble))
    return report


def _make(out: Path) -> None:
    """Before anything is run: whether the folder can be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise LabError(f"cannot write to {out}: {error.strerror}; give another --out") from None


def _keep(
    out: Path, scenario: Scenario, report: Report, lab: Lab, programs: Sequence[str]
) -> list[str]:
    """Leave the picture and the logs; what went wrong with that."""
    try:
        (out / "paths.svg").write_text(draw.picture(scenario, report), encoding="utf-8")
        for name in programs:
            for log in ("stdout.log", "stderr.log"):
                if (lab.folder / name / log).exists():
                    shutil.copyfile(lab.folder / name / log, out / f"{name}.{log}")
    except OSError as error:
        return [f"cannot write all logs to {out}: {error.strerror}"]
    return []
