"""`python provisioned.py SET`: provision the hosts of a set unless all of them are ready already."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "scripts"), str(Path(__file__).resolve().parent)]

from promises import Deployment, deployment  # noqa: E402  the path first

# The early unit of a test host makes loop devices; a host without any has to unpack images instead.
NO_LOOP = """\
cat > /etc/systemd/system/no-loop.service <<'UNIT'
[Unit]
Description=A machine without loop devices
DefaultDependencies=no
After=test-host-early.service
Before=local-fs-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'rm -f /dev/loop-control /dev/loop[0-9]*'

[Install]
WantedBy=sysinit.target
UNIT
systemctl enable --now no-loop.service
"""


def ready(target: Deployment) -> bool:
    """Whether every app server knows the application already."""
    try:
        target.status()
    except (AssertionError, RuntimeError, ValueError, subprocess.SubprocessError):
        return False
    return True


def main(name: str) -> None:
    """Provision, and print what provision.yml says."""
    target = deployment(name)
    if ready(target):
        print(f"{name}: provisioned before")
        return
    if name == "fleet":
        target.on("web3", NO_LOOP)
    print(target.provision().output)


if __name__ == "__main__":
    main(sys.argv[1])
