"""How a process of the node is told to stop."""

import subprocess
import sys

SIGNALLED_OFTEN = """
import os, signal, threading
from node.serving import hold_signals, wait_for_signal

def send() -> None:
    for _ in range(3000):
        os.kill(os.getpid(), signal.SIGTERM)
        taken.wait(5)
        taken.clear()

hold_signals()
taken = threading.Event()
threading.Thread(target=send, daemon=True).start()
for _ in range(3000):
    wait_for_signal()
    taken.set()
"""


def test_a_stop_is_taken_at_any_moment() -> None:
    """A signal that comes just as the process begins to wait must not be slept over."""
    assert subprocess.run([sys.executable, "-c", SIGNALLED_OFTEN], check=False, timeout=60).returncode == 0
