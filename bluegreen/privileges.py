"""Work that needs no root is done by a child that has none."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import signal
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

from bluegreen.errors import BluegreenError, Code

PROBE_USER = "bluegreen"
FORK = threading.Lock()  # a child must not begin while a thread is in the middle of something


def call(
    work: Callable[[], Any],
    user: str = PROBE_USER,
    timeout: float = 600,
    meanwhile: Callable[[], None] | None = None,
) -> Any:
    """Run `work` in a child process as `user` and return what it returns (JSON types only).

    `meanwhile` is done here while the child works. Raises what `meanwhile` raised, else the BluegreenError that `work`
    raised, or one that says how the child died.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise BluegreenError(
            Code.NOT_PROVISIONED, f"there is no user {user}", "", "run ansible-playbook provision.yml"
        ) from None
    reader, writer = os.pipe()
    with FORK:
        child = os.fork()
    if child == 0:
        _child(work, entry, reader, writer, timeout)
    os.close(writer)
    try:
        if meanwhile is not None:
            meanwhile()
    finally:
        with os.fdopen(reader, "rb") as stream:
            text = stream.read()
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        raise BluegreenError(Code.CHECK_FAILED, f"the checks did not end within {timeout:g} s")
    answer: dict[str, Any] = json.loads(text) if text else {"crash": f"the check process ended with status {status}"}
    if "error" in answer:
        told = answer["error"]
        raise BluegreenError(Code(told["code"]), told["what"], told["why"], told["todo"], told["details"])
    if "crash" in answer:
        raise BluegreenError(Code.BUG, answer["crash"])
    return answer["value"]


def stream(
    work: Callable[[Callable[[bytes], Any]], Any],
    keep: Callable[[IO[bytes]], None],
    user: str = PROBE_USER,
    timeout: float = 600,
) -> Any:
    """Run `work` in a child process as `user`; what it writes is read by `keep` here, which trusts nothing of it.

    Returns and raises as `call` does.
    """
    reader, writer = os.pipe()
    with contextlib.suppress(OSError):  # larger where the kernel lets us: fewer turns between the two
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)

    def write() -> Any:
        os.close(reader)
        with os.fdopen(writer, "wb") as out:
            return work(out.write)

    def read() -> None:
        os.close(writer)
        with os.fdopen(reader, "rb") as source:
            keep(source)

    return call(write, user, timeout, meanwhile=read)


def _child(work: Callable[[], Any], entry: pwd.struct_passwd, reader: int, writer: int, timeout: float) -> None:
    """The child's whole life; never returns."""
    status = 1
    try:
        os.close(reader)
        signal.alarm(int(timeout) + 1)
        if os.getuid() == 0:
            os.initgroups(entry.pw_name, entry.pw_gid)
            os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
            os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
        answer: dict[str, Any]
        try:
            answer = {"value": work()}
        except BluegreenError as problem:
            answer = {
                "error": {
                    "code": int(problem.code),
                    "what": problem.what,
                    "why": problem.why,
                    "todo": problem.todo,
                    "details": problem.details,
                }
            }
        except Exception:  # noqa: BLE001  told to the parent, which raises it
            import traceback  # slow to import

            answer = {"crash": traceback.format_exc(limit=3).strip().splitlines()[-1]}
        with os.fdopen(writer, "wb") as stream:
            stream.write(json.dumps(answer).encode())
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)
