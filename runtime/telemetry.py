"""No word to a third party. The engines report their use, and keep an id in the home directory, unless told not to.

ONNX Runtime does so from its first import; OpenVINO's converter and NNCF from theirs, by a package that they can do
without.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

_REPORTER = "openvino_telemetry"


@contextlib.contextmanager
def no_telemetry() -> Iterator[None]:
    """Run a block that imports or calls an engine without reports and without files in the home directory."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # stays: ONNX Runtime reads it when it pleases
    # OpenVINO and NNCF take a stub where the import fails. Where it was imported before, CI=true stops the reports.
    hide = _REPORTER not in sys.modules
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    if hide:
        sys.modules[_REPORTER] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hide:
            del sys.modules[_REPORTER]
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
