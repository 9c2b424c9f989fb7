"""Small receivers that tests run under uvicorn. Each dies with the test that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

parent = os.environ.get("WHATSABLE_TEST_PARENT")
if parent and sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):  # it died before we asked
        os._exit(1)
