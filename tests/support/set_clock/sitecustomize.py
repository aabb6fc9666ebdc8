"""On ``PYTHONPATH`` of a process whose wall clock a test sets: so many seconds ahead as stand in the file ``TEST_CLOCK_FILE``, read again
twice a second.  A process that is named after ``TEST_CLOCK_NAMES`` on its command line alone; the monotonic clock passes as it does."""

import os
import sys
import time

_file, _names = os.environ.get("TEST_CLOCK_FILE"), os.environ.get("TEST_CLOCK_NAMES", "").split(",")
if _file and any(name in sys.orig_argv for name in _names):
    _time, _time_ns, _monotonic = time.time, time.time_ns, time.monotonic
    _ahead_s, _until_s = 0.0, 0.0

    def _offset_s() -> float:
        global _ahead_s, _until_s
        if _monotonic() >= _until_s:
            _until_s = _monotonic() + 0.5
            try:
                with open(_file) as content:
                    _ahead_s = float(content.read())
            except (OSError, ValueError):
                pass  # it is being written
        return _ahead_s

    time.time = lambda: _time() + _offset_s()
    time.time_ns = lambda: _time_ns() + int(_offset_s() * 1e9)
