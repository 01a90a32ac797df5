"""gunicorn's configuration, the same for every release; what differs comes from the release's environment.

Settings that an installed gunicorn does not know are ignored by it, so this file serves all versions.
"""

import importlib.util
import os

bind = [f"unix:/run/bluegreen/{os.environ['BLUEGREEN_APP']}/{os.environ['BLUEGREEN_COLOUR']}.sock"]
umask = 0o007  # nginx reaches the socket as a member of the application's group
workers = int(os.environ["BLUEGREEN_WORKERS"])
threads = int(os.environ["BLUEGREEN_THREADS"])
timeout = int(os.environ["BLUEGREEN_REQUEST_TIMEOUT"])
graceful_timeout = timeout
backlog = 2048  # a full backlog answers 502 at once
worker_tmp_dir = "/dev/shm"  # noqa: S108  heartbeats stay off the disk
preload_app = True  # so that "ready" means the application was imported, and a broken one fails at once
pythonpath = os.path.dirname(os.path.abspath(__file__))
wsgi_app = "bluegreen_serve:application"
control_socket_disable = True  # two colours of one user would share it

if os.environ["BLUEGREEN_INTERFACE"] == "asgi":
    bind.append(bind[0].replace(".sock", ".ws.sock"))  # websockets alone, so that they can be counted
    if importlib.util.find_spec("uvicorn_worker"):
        worker_class = "uvicorn_worker.UvicornWorker"
    elif importlib.util.find_spec("gunicorn.asgi"):
        worker_class = "asgi"
    else:
        worker_class = "uvicorn.workers.UvicornWorker"
else:
    worker_class = "gthread" if threads > 1 else "sync"
