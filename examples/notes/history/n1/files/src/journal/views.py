"""Pages."""

from datetime import timedelta

from django import forms
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from .context import VERSION
from .models import Note, Pulse


class NoteForm(forms.ModelForm):
    class Meta:
        model = Note
        fields = ["text", "attachment"]


def start(request: HttpRequest) -> HttpResponse:
    """The front page."""
    return render(request, "journal/start.html", {"count": Note.objects.count()})


@login_required
def notes(request: HttpRequest) -> HttpResponse:
    """One's own notes, and a form for the next."""
    form = NoteForm(request.POST or None, request.FILES or None)
    form.instance.author = request.user
    if form.is_valid():
        form.save()
        return redirect("notes")
    return render(request, "journal/notes.html", {"form": form, "notes": request.user.notes.all()[:50]})


def status(request: HttpRequest) -> JsonResponse:
    """Say whether the database answers and whether this version's process_notes is alive."""
    alive = Pulse.objects.filter(version=VERSION, at__gt=timezone.now() - timedelta(seconds=10)).exists()
    return JsonResponse({"version": VERSION, "database": "ok", "processing": "ok" if alive else "silent"})
