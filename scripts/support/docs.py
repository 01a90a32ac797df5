"""Tables of inputs in the roles' README files, generated from meta/argument_specs.yml between two markers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from support.common import REPO, Failure, write_atomic

BEGIN = "<!-- inputs: made by scripts/docs -->"
END = "<!-- /inputs -->"


def rows(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A table row for each input, the keys of a nested one below it."""
    for name, option in options.items():
        kind = option.get("type", "str")
        if "elements" in option:
            kind += f" of {option['elements']}"
        if "choices" in option:
            kind += ": " + ", ".join(str(choice) for choice in option["choices"])
        default = "**required**" if option.get("required") else shown(option.get("default"))
        text = words(option.get("description", ""))
        yield f"| `{prefix}{name}` | {kind} | {default} | {text}{' Secret.' if option.get('no_log') else ''} |"
        yield from rows(option.get("options", {}), f"{prefix}{name}.")


def shown(value: object) -> str:
    """A default as the table shows it; text is taken as it stands: it may describe where the value comes from."""
    if value is None:
        return ""
    if isinstance(value, str) and value and "{{" not in value:
        return words(value)
    return f"`{words(value if value and isinstance(value, str) else json.dumps(value))}`"


def words(text: object) -> str:
    """A description on one line of a table."""
    joined = " ".join(text) if isinstance(text, list) else str(text)
    return " ".join(joined.split()).replace("|", "\\|")


def table(specs: Mapping[str, Any]) -> str:
    """The text between the markers: a table for each entry point that has inputs."""
    parts = []
    for name, spec in specs.items():
        heading = (
            ""
            if name == "main" or len(specs) == 1
            else f"### `tasks_from: {name}`: {words(spec.get('short_description', ''))}\n\n"
        )
        options = spec.get("options") or {}
        if not options:
            parts.append(f"{heading}No inputs.")
            continue
        lines = ["| input | type | default | meaning |", "| --- | --- | --- | --- |", *rows(options)]
        parts.append(heading + "\n".join(lines))
    return "\n\n".join(parts)


def readme(name: str, text: str, specs: Mapping[str, Any]) -> str:
    """The README with its tables renewed. Raises Failure if it has no markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Failure(f"roles/{name}/README.md lacks the lines {BEGIN!r} and {END!r}", 2)
    return f"{before}{BEGIN}\n\n{table(specs)}\n\n{END}{after}"


def changes(roles: Path) -> Iterator[tuple[Path, str]]:
    """Each README that is not as it should be, with the content it should have."""
    for specs in sorted(roles.glob("*/meta/argument_specs.yml")):
        role = specs.parents[1]
        path = role / "README.md"
        if not path.exists():
            raise Failure(f"roles/{role.name} has no README.md", 2)
        old = path.read_text()
        new = readme(role.name, old, yaml.safe_load(specs.read_text())["argument_specs"])
        if new != old:
            yield path, new


def main(arguments: list[str]) -> int:
    """Write the tables, or only say which are not up to date."""
    parser = argparse.ArgumentParser(prog="scripts/docs", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit status 1 if a table is not up to date"
    )
    options = parser.parse_args(arguments)
    stale = list(changes(REPO / "roles"))
    for path, content in stale:
        if not options.check:
            write_atomic(path, content)
        print(f"{path.relative_to(REPO)} {'is not up to date: run scripts/docs' if options.check else 'written'}")
    return int(bool(stale) and options.check)
