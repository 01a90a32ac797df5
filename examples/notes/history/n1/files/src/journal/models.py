"""Notes, and the sign of life of the process that reads them."""

from django.conf import settings
from django.db import models


class Note(models.Model):
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notes")
    text = models.TextField(max_length=4000)
    attachment = models.FileField(upload_to="%Y/%m", blank=True)
    words = models.PositiveIntegerField(null=True, editable=False, help_text="counted by process_notes")
    written_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return self.text[:40]


class Pulse(models.Model):
    """One row per version: when its process_notes last looked."""

    version = models.CharField(max_length=10, unique=True)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.version} at {self.at}"
