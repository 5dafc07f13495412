"""No word to a third party: OpenVINO's converter and NNCF report their use to Google Analytics unless told not to.

Each report is a process of its own that waits up to three seconds for a network that may not be there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def no_telemetry() -> Iterator[None]:
    """Run a block of OpenVINO or NNCF calls, their first imports included, without reports.

    ``CI=true`` is the switch that openvino-telemetry has for programs; its other one is a file in the home directory.
    """
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
