"""The end of a process that serves for a parent: it must not keep the port once its parent was killed."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import wait
from threading import Thread

# Longer than a process takes to finish its requests.
STOP_SECONDS = 15.0


def end_with_parent() -> None:
    """When the parent ends, even by kill -9, stop as on SIGTERM, and by force after STOP_SECONDS.

    Only for a process that `multiprocessing` started; any other goes on.
    """
    if parent := multiprocessing.parent_process():
        Thread(target=_await_end, args=(parent.sentinel,), name="parent", daemon=True).start()


def _await_end(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
