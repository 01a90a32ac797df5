"""What can go wrong in a build, as one line for the operator and an exit status."""

from __future__ import annotations

from collections.abc import Sequence

from support.common import Failure


class BuildError(Failure):
    """The build failed (exit status 1); `details` are lines of output to show before the one line."""

    def __init__(self, text: str, details: Sequence[str] = (), code: int = 1) -> None:
        super().__init__(" ".join(text.split()), code)
        self.details = list(details)


class InputError(BuildError):
    """What was asked for cannot be built (exit status 2); nothing was changed."""

    def __init__(self, text: str, details: Sequence[str] = ()) -> None:
        super().__init__(text, details, 2)
