"""manage.py process_notes: counts the words of new notes until it is told to stop."""

import signal
import threading

from django.core.management.base import BaseCommand
from django.utils import timezone

from journal.context import VERSION
from journal.models import Note, Pulse

PAUSE = 2.0


def count_words() -> int:
    """Count the words of all notes that wait; return how many there were."""
    waiting = list(Note.objects.filter(words=None))
    return sum(Note.objects.filter(pk=note.pk, words=None).update(words=len(note.text.split())) for note in waiting)


class Command(BaseCommand):
    help = "Count the words of new notes, every two seconds, until SIGTERM."

    def handle(self, *args: object, **options: object) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        self.stdout.write("processing notes")
        while not stop.is_set():
            Pulse.objects.update_or_create(version=VERSION, defaults={"at": timezone.now()})
            if done := count_words():
                self.stdout.write(f"counted {done}")
            stop.wait(PAUSE)
        self.stdout.write("stopped")
