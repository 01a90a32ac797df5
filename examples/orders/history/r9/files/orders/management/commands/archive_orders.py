"""manage.py archive_orders: gives the orders of before their archived_at, beside the traffic."""

import signal
import time
from argparse import ArgumentParser
from types import FrameType

from django.core.management.base import BaseCommand, CommandError
from waffle import switch_is_active

from orders import archive

PAUSED = 75  # exit status: try again later
LOOK_AGAIN = 2.0  # seconds between looks at the switches, and at a table where nothing is left to do
TELL = 5.0  # seconds between two lines of progress


def paused() -> str:
    """Which switch is off, or nothing."""
    return next((name for name in (archive.WRITES, archive.BACKFILL) if not switch_is_active(name)), "")


def pause_after(changed: int, rate: int, seconds: float) -> float:
    """Seconds to wait after a batch of `changed` orders that took `seconds`, for `rate` orders a second."""
    return max(changed / rate - seconds, 0.0)


def progress(done: int, total: int, seconds: float) -> str:
    """A line of progress; `total` as counted when the round began."""
    speed = done / seconds if seconds else 0.0
    left = f", about {max(total - done, 0) / speed:.0f} s left" if speed else ""
    return f"{done} of {max(total, done)} orders, {speed:.0f} a second{left}"


class Command(BaseCommand):
    help = (
        "Archive the orders that were confirmed before the switch archive_writes was on. Batches are small, skip what "
        "others hold, and can be stopped at any moment: the next start goes on. It runs while the switches "
        "archive_writes and archive_backfill are on."
    )
    stopped = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--batch", type=int, default=500, help="orders in one transaction (500)")
        parser.add_argument("--rate", type=int, default=2000, help="orders a second, at most (2000)")
        parser.add_argument(
            "--stay", action="store_true", help="wait for the switches, and for more work; until SIGTERM"
        )
        parser.add_argument("--status", action="store_true", help="only say what is left; exit status 1 if anything is")

    def handle(self, *, batch: int, rate: int, stay: bool, status: bool, **_: object) -> None:
        if batch < 1 or rate < 1:
            raise CommandError("--batch and --rate are 1 or more")
        if status:
            return self.tell_status()
        signal.signal(signal.SIGTERM, self.stop)
        while not self.stopped:
            if off := paused():
                if not stay:
                    raise CommandError(f"paused: the switch {off} is off (waffle_switch {off} on)", returncode=PAUSED)
                time.sleep(LOOK_AGAIN)
            elif self.run_round(batch, rate) and not stay:
                return None
            elif not self.stopped:
                time.sleep(LOOK_AGAIN)
        self.tell("stopped; the next start goes on")
        return None

    def stop(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: the batch at work is finished."""
        self.stopped = True

    def tell(self, text: str) -> None:
        """A line, at once: a journal has no terminal."""
        self.stdout.write(text)
        self.stdout.flush()

    def tell_status(self) -> None:
        """Say what is left and whether it is at work."""
        left = archive.differing().count()
        off = paused()
        self.tell(f"{left} orders left" + (f", paused: the switch {off} is off" if off else ""))
        if left:
            raise CommandError("not done", returncode=1)

    def run_round(self, batch: int, rate: int) -> bool:
        """Go through the table once; True if nothing is left."""
        total = archive.differing().count()
        started = told = time.monotonic()
        done = last = 0
        while total and not self.stopped and not paused():
            began = time.monotonic()
            found = archive.fill(last, batch)
            done, last = done + found.changed, found.last
            if time.monotonic() - told >= TELL or not last:
                told = time.monotonic()
                self.tell(progress(done, total, told - started))
            if not last:
                break
            time.sleep(pause_after(found.changed, rate, time.monotonic() - began))
        left = archive.differing().count()
        if total and not left:
            self.tell("done: every order says the same in both places")
        return not left
