"""Marked values: in any form in which one may be written, they are looked for in text, in files, on hosts."""

from __future__ import annotations

import base64
import subprocess
import tempfile

from promises import REPO, Deployment


def forms(mark: str) -> list[str]:
    """How a mark looks where it was written: as it is, in hexadecimal, and within any text in base64."""
    found = [mark, mark.encode().hex()]
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + mark.encode()).decode()
        found.append(coded[4 if before else 0 : -4])
    return found


def expect_silence(text: str, mark: str) -> None:
    """No form of the mark stands in a text; what is shown is the line with the mark taken out."""
    for form in forms(mark):
        lines = [line.replace(form, "<HERE>")[:300] for line in text.splitlines() if form in line]
        assert not lines, "\n".join(lines[:5])


def found_in(places: list[str], mark: str, began: str) -> list[str]:
    """The files of this machine, written since `began` (@ and seconds since 1970), that hold a form of the mark."""
    with tempfile.NamedTemporaryFile("w") as wanted:
        wanted.write("\n".join(forms(mark)) + "\n")
        wanted.flush()
        found = ["find", *places, "-xdev", "-type", "f", "-newermt", began, "!", "-path", wanted.name]
        command = [*found, "-exec", "grep", "-laFs", "-f", wanted.name, "{}", "+"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def found_on(deployment: Deployment, host: str, command: str, mark: str) -> list[str]:
    """What a grep on a host prints; what it looks for comes on its stdin and is in no argument."""
    known = f'UserKnownHostsFile="{REPO / ".hosts/known_hosts"}"'
    words = ["ssh", "-i", str(REPO / ".hosts/id_ed25519"), "-o", known, "-o", "IdentitiesOnly=yes"]
    words += ["-o", "BatchMode=yes", f"root@{deployment.address(host)}", f"{command}; test $? -le 2"]
    done = subprocess.run(words, input="\n".join(forms(mark)).encode(), capture_output=True, check=True)
    return done.stdout.decode(errors="replace").splitlines()
