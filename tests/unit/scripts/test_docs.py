"""The tables in the roles' README files."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.common import Failure
from support.docs import BEGIN, END, changes, readme, table

SPECS = {
    "main": {
        "short_description": "Do it",
        "options": {
            "do_name": {"type": "str", "required": True, "description": "A name."},
            "do_list": {"type": "list", "elements": "str", "default": [], "description": ["One.", "Two | three."]},
            "do_deep": {"type": "dict", "options": {"key": {"no_log": True, "description": "A key."}}},
            "do_fed": {"default": "{{ app_name }}", "description": "Fed."},
        },
    }
}


def test_each_input_is_a_row() -> None:
    assert table(SPECS).splitlines() == [
        "| input | type | default | meaning |",
        "| --- | --- | --- | --- |",
        "| `do_name` | str | **required** | A name. |",
        "| `do_list` | list of str | `[]` | One. Two \\| three. |",
        "| `do_deep` | dict |  |  |",
        "| `do_deep.key` | str |  | A key. Secret. |",
        "| `do_fed` | str | `{{ app_name }}` | Fed. |",
    ]


def test_a_second_entry_point_has_a_heading() -> None:
    text = table({**SPECS, "again": {"short_description": "Once more"}})
    assert text.endswith("### `tasks_from: again`: Once more\n\nNo inputs.")


def test_only_the_text_between_the_markers_changes() -> None:
    once = readme("do", f"# do\n{BEGIN}\nold\n{END}\nend\n", SPECS)
    assert once.startswith(f"# do\n{BEGIN}\n\n| input")
    assert once.endswith(f"|\n\n{END}\nend\n")
    assert readme("do", once, SPECS) == once


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(Failure, match=r"roles/do/README\.md lacks the lines"):
        readme("do", "# do\n", SPECS)


def test_a_role_without_readme_is_refused(tmp_path: Path) -> None:
    (tmp_path / "do/meta").mkdir(parents=True)
    (tmp_path / "do/meta/argument_specs.yml").write_text("argument_specs: {main: {}}\n")
    with pytest.raises(Failure, match=r"roles/do has no README\.md"):
        list(changes(tmp_path))
