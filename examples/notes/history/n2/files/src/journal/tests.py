"""Tests: DJANGO_SETTINGS_MODULE=website.config.development python src/manage.py test journal"""

from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import TestCase, override_settings

from accounts.models import User

from .management.commands.process_notes import count_words
from .models import Note


@override_settings(
    STORAGES={
        "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
)
class NotesTest(TestCase):
    def test_public_pages_answer(self) -> None:
        for path in ["/", "/sign-in", "/status"]:
            self.assertEqual(self.client.get(path).status_code, 200)

    def test_a_note_with_an_attachment_is_kept_and_counted(self) -> None:
        self.client.force_login(User.objects.create_user("ada@example.org"))
        self.client.post("/notes", {"text": "three small words", "attachment": SimpleUploadedFile("a.txt", b"hello")})
        self.assertEqual([count_words(), count_words()], [1, 0])
        self.assertContains(self.client.get("/notes"), "3 words")
        self.assertEqual(Note.objects.get().attachment.read(), b"hello")

    def test_pinned_notes_come_first(self) -> None:
        user = User.objects.create_user("ada@example.org")
        for text, pinned in {"first": True, "second": False}.items():
            Note.objects.create(author=user, text=text, pinned=pinned)
        self.assertEqual([note.text for note in Note.objects.all()], ["first", "second"])

    def test_notes_ask_to_sign_in(self) -> None:
        self.assertRedirects(self.client.get("/notes"), "/sign-in?next=/notes")
