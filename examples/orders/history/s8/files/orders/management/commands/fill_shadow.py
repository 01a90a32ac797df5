"""manage.py fill_shadow: copies the orders of before into the shadow table, beside the traffic."""

import signal
import time
from argparse import ArgumentParser
from types import FrameType

from django.core.management.base import BaseCommand, CommandError

from orders import shadow


class Command(BaseCommand):
    help = "Copy the orders of before into the shadow table. It can be stopped at any moment, and started again."
    stopped = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--batch", type=int, default=500, help="orders in one transaction (500)")
        parser.add_argument("--rate", type=int, default=2000, help="orders a second, at most (2000)")
        parser.add_argument(
            "--status", action="store_true", help="only compare the tables; exit status 1 if they differ"
        )

    def handle(self, *, batch: int, rate: int, status: bool, **_: object) -> None:
        if batch < 1 or rate < 1:
            raise CommandError("--batch and --rate are 1 or more")
        signal.signal(signal.SIGTERM, self.stop)
        last, seen, copied = 0, batch, 0
        while seen == batch and not status and not self.stopped:
            began = time.monotonic()
            last, seen, new = shadow.fill(last, batch)
            copied += new
            self.stdout.write(f"up to order {last}: {copied} copied")
            self.stdout.flush()  # a journal has no terminal
            time.sleep(max(seen / rate - (time.monotonic() - began), 0.0))
        if self.stopped:
            self.stdout.write("stopped; the next start goes on")
        elif left := shadow.differing():
            raise CommandError(f"{left} orders differ", returncode=1)
        else:
            self.stdout.write("done: both tables hold the same")

    def stop(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: the batch at work is finished."""
        self.stopped = True
