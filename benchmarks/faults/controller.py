"""The controller dies: before every single task of a deploy and a rollback, and while the hosts work on one."""

from __future__ import annotations

import time
from argparse import Namespace

from support.common import Failure

from . import judge
from .judge import Point, Run
from .rig import NEW, OLD, Report, Rig

CASE = "controller-kill"


def baseline(rig: Rig) -> dict[str, list[judge.Task]]:
    """The tasks of a deploy and of a rollback that nobody disturbs."""
    found = {}
    rig.given(OLD)
    rig.unmigrate()
    for command, words in (("deploy", rig.deploy_command(NEW)), ("rollback", rig.rollback_command(OLD))):
        controller = rig.start(words, f"baseline {command}")
        if controller.wait():
            raise Failure(f"baseline {command}: {controller.last_lines()}; see {controller.log}")
        found[command] = judge.tasks_of(controller.history)
        rig.progress(f"{command}: {len(found[command])} tasks in {time.monotonic() - controller.started:.1f} s")
    return found


def controller_kill(rig: Rig, options: Namespace, report: Report) -> None:
    """Kill the controller at every point; the commands alternate, because a deploy is what a rollback needs before."""
    tasks = baseline(rig)
    both = [judge.points(command, tasks[command], options.seed, options.during) for command in options.commands]
    wanted = [point for points in both for point in points if not options.phases or point.task.play in options.phases]
    chosen = judge.sample(wanted, options.runs, options.seed)
    queues = {command: [point for point in chosen if point.command == command] for command in options.commands}
    while any(queues.values()):
        for queue in queues.values():
            if queue:
                report(one(rig, queue.pop(0), options))


def one(rig: Rig, point: Point, options: Namespace) -> Run:
    """One controller, one death."""
    deploys = point.command == "deploy"
    rig.given(OLD if deploys else NEW)
    ttl = rig.ttl if point.then == "wait" else 30.0  # a re-run must find the switch still pending
    if deploys:
        rig.unmigrate()
    command = rig.deploy_command(NEW) if deploys else rig.rollback_command(OLD)
    plan = {"at": f"{point.when}:{point.task.number}", "do": options.signal, "whom": point.whom, "delay": point.delay}
    result = Run(CASE, f"controller {options.signal}, {point.command}", point.text, options.seed)
    start = time.monotonic()
    controller = rig.start(rig.hurried(command, ttl), f"{point.command} {point.when} {point.task.number}", plan)
    status = controller.wait()
    name_place(result, point, controller.history, options.signal, status)
    fell = controller.hit or time.monotonic()
    if point.then == "wait":
        result.whole = rig.observe(fell, rig.hosts, [controller], ttl)
        result.ended = rig.ended(rig.hosts)
        if result.ended not in (OLD, NEW):
            result.problems.append(f"it ended on {result.ended}")
        rig.rerun(result, command, NEW if deploys else OLD)
    else:
        rig.rerun(result, command, NEW if deploys else OLD)
        result.whole = rig.observe(fell, rig.hosts, [controller])
        result.ended = rig.ended(rig.hosts)
    return rig.finish(result, start, rig.hosts, ttl if point.then == "wait" else None)


def name_place(result: Run, point: Point, history: str, signal: str, status: int) -> None:
    """Say where the controller died in truth, and what was under way there."""
    place = judge.place_of(history)
    if place is None:
        result.fault = f"(the controller came to its end before the point, {point.command})"
        result.notes.append(f"it ended before its point, with status {status}")
        return
    when, number, play = place
    then = ", re-run at once" if point.then == "rerun" else ""
    result.fault = f"controller {signal}, {point.command}, {judge.state_at(when, play)}{then}"
    if (when, number) != (point.when, point.task.number):
        result.notes.append(f"it died later than meant: {when} task {number} ({play})")
