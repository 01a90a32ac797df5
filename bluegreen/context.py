"""What every verb is given."""

from __future__ import annotations

import dataclasses
import sys
from functools import cached_property

from bluegreen import config as configuration
from bluegreen import web
from bluegreen.config import HostConfig, Paths
from bluegreen.state import State


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
        return State(self.paths)

    @cached_property
    def key(self) -> bytes:
        return configuration.read_key(self.paths)

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
