"""A process may open as many files as the system lets it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import resource
from stele.services.file_limit import file_limit, raise_file_limit
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
hard = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
assert file_limit() == 256
raise_file_limit()
assert file_limit() == hard
raise_file_limit()
assert file_limit() == hard
"""


def test_p1_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)
