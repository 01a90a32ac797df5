"""bluegreen: the host's side of a zero-downtime release. Standard library only.

This program holds root, so it does little: it changes state on this host (images, links, units, the route, the
lease) one atomic step at a time. Release code never runs in it; HTTP checks run in a child without privileges.
Read `cli.py` first, then `verbs.py`, then the module named like the verb.
"""

__version__ = "0.1.0"
