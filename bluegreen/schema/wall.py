"""While migrations are tried, their Python code must reach nothing but the shadow.

The first wall is the unit it runs in (`UNIT`): no network, nothing writable. This is the second one, in the process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

# For the unit that runs `judge` on a throwaway server, beside the hardening that every job has (bluegreen/jobs.py).
# A scratch database beside the live one needs the network to it: there without PrivateNetwork.
UNIT = (
    "PrivateNetwork=yes",
    "RestrictAddressFamilies=AF_UNIX",
    "IPAddressDeny=any",
    "PrivateTmp=yes",  # the throwaway server lives in /tmp; /run/postgresql and the release's sockets are hidden:
    "InaccessiblePaths=-/run/postgresql -/run/bluegreen -/run/redis -/run/dbus",
    "PrivateIPC=yes",
    "RuntimeMaxSec=600",
    "TasksMax=256",
    "OOMPolicy=kill",
)
_REACHING = (
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.bind",
)
_RUNNING = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "os.kill",
    "ctypes.dlopen",
)


class Walled(OSError):
    """The code of a migration wanted to reach something beside its database."""


class Wall:
    """Once `up`, it stands until the process ends. `hits`: what was stopped, also where code hid the error."""

    def __init__(self) -> None:
        self.closed = False
        self.hits: list[str] = []

    def up(self, allowed: Callable[[dict[str, Any]], bool]) -> None:
        """allowed: may a connection to PostgreSQL with these parameters be made?"""
        sys.addaudithook(self._audit)
        for name in ("psycopg", "psycopg2"):
            module = sys.modules.get(name)
            if module is not None:
                self._guard(module, allowed)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if self.closed and (event in _REACHING or event in _RUNNING):
            what = f"{event} {args[1] if event.startswith('socket.') and len(args) > 1 else (args or ('',))[0]}"[:200]
            self.stop(what)

    def stop(self, what: str) -> None:
        """Raises Walled."""
        self.hits.append(what)
        raise Walled(f"a migration must reach nothing but its database, and tried {what}")

    def _guard(self, module: Any, allowed: Callable[[dict[str, Any]], bool]) -> None:
        conninfo = getattr(module, "conninfo", None)  # psycopg 3
        extensions: Any = getattr(module, "extensions", None)  # psycopg2
        parse: Callable[[str], dict[str, Any]] = getattr(conninfo, "conninfo_to_dict", None) or extensions.parse_dsn

        def guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
            def check(*args: Any, **kwargs: Any) -> Any:
                text = next((str(arg) for arg in args if isinstance(arg, str)), "") or str(kwargs.get("dsn") or "")
                wanted = {**(parse(text) if text else {}), **kwargs}
                if not allowed(wanted):
                    self.stop(
                        f"another database ({wanted.get('host', '?')}/{wanted.get('dbname') or wanted.get('database')})"
                    )
                return connect(*args, **kwargs)

            return check

        module.connect = guarded(module.connect)
        for owner in ("Connection", "AsyncConnection"):
            kind = getattr(module, owner, None)
            if kind is not None and "connect" in vars(kind):
                kind.connect = staticmethod(guarded(kind.connect))
