"""What every verb is given."""

from __future__ import annotations

import dataclasses
import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING

from bluegreen import config as configuration
from bluegreen import web
from bluegreen.config import HostConfig, Paths
from bluegreen.state import State

if TYPE_CHECKING:
    from bluegreen.register import Register


@dataclasses.dataclass
class Context:
    """One call of the program: the application, who calls, and with which generation."""

    paths: Paths
    config: HostConfig
    deploy_id: str = ""
    fence: int | None = None
    holder: str = ""
    dry_run: bool = False

    @cached_property
    def state(self) -> State:
        """What this host knows of the application."""
        return State(self.paths)

    @cached_property
    def key(self) -> bytes:
        """The application's key. Raises BluegreenError (NOT_PROVISIONED) where there is none."""
        return configuration.read_key(self.paths)

    @cached_property
    def register(self) -> Register:
        """The fleet's register. Raises Silent where its address is missing."""
        from bluegreen import register

        return register.connect(self.app, self.paths.register)

    def registered(self, deploy_id: str) -> bool:
        """Whether the register decides about a deploy: not without one, and not about a person's work on this host."""
        return self.config.register and bool(deploy_id) and not deploy_id.startswith("local-")

    @property
    def host(self) -> str:
        """This host's name in the inventory; its own where provisioning wrote none."""
        return self.config.host or os.uname().nodename

    @property
    def app(self) -> str:
        return self.paths.app

    def visitor(self, front: bool = False) -> web.Visitor:
        """How checks present themselves; through the front they carry the probe token."""
        token = configuration.token(self.key, "probe") if front else ""
        return web.Visitor(self.config.domain, self.config.https, token)

    def effective_fence(self) -> int:
        """The generation of this call; a person on the host acts with the one this host knows."""
        return self.state.fence() if self.fence is None else self.fence

    def say(self, text: str) -> None:
        """One progress line for a person."""
        print(f"bluegreen: {text}", file=sys.stderr, flush=True)
