"""The OpenVINO backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import INPUT_NAMES, OUTPUT_NAME
from ..errors import ArtifactError, MissingExtraError
from ..forking import Owner, let_be, new_lock, renew_in_child, undivided
from ..telemetry import no_telemetry
from .graph_files import check_names, is_utf8
from .library_errors import load_error, run_error
from .session import Ids, Session, Weights


class OpenVinoSession(Session):
    """A graph in OpenVINO on the CPU. See :class:`Session`.

    Operations that are not int8 run in float32; OpenVINO's default is bfloat16. OpenVINO hangs in children of a process
    that has used it: while it loads a graph, encodes, or ends. So it is refused there.

    Raises
    ------
    MissingExtraError
        If OpenVINO is not installed.
    ArtifactError
        If the graph does not load, or in a child of a process that has used OpenVINO.
    """

    _user: Owner | None = None  # the process that has used OpenVINO

    def __init__(self, path: Path, vocab_size: int, max_length: int, threads: int) -> None:
        super().__init__(path, vocab_size, max_length, threads)
        self._refuse_child()
        try:
            with undivided, no_telemetry():
                import openvino as ov
        except ImportError:
            raise MissingExtraError("the OpenVINO backend", "openvino") from None
        if not is_utf8(path):
            raise ArtifactError(f"{path} is not UTF-8, which OpenVINO needs; rename it, or use another backend")
        OpenVinoSession._user = OpenVinoSession._user or Owner()
        hints: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        try:
            with undivided:
                # The compiled model's own reference keeps the core alive; no CACHE_DIR, so nothing is written.
                compiled = ov.Core().compile_model(path, "CPU", hints)
                self._request = compiled.create_infer_request()
        except Exception as error:
            raise load_error(path, f"OpenVINO {ov.__version__}", error) from error
        names = [[next(iter(port.get_names()), "") for port in ports] for ports in (compiled.inputs, compiled.outputs)]
        check_names(path, *names, expected=(OUTPUT_NAME,))
        self._lock = new_lock()  # an infer request holds its input and output tensors
        renew_in_child(self)

    def renew(self) -> None:
        """After a fork, in the child: never close what the parent loaded. It would wait for missing threads."""
        let_be(self._request)

    def _refuse_child(self) -> None:
        if self._user is not None and not self._user.is_here:
            raise ArtifactError(
                f"{self.path}: OpenVINO works in no child of a process that has used it; open the index in the child "
                "alone, start processes by spawn, or use another backend"
            )

    def _run(self, input_ids: Ids, attention_mask: Ids) -> Weights:
        self._refuse_child()
        feed = dict(zip(INPUT_NAMES, (input_ids, attention_mask), strict=True))
        with self._lock:
            try:
                # The next call overwrites the output tensor, so it is copied out.
                with undivided:
                    weights = self._request.infer(feed, share_inputs=True, share_outputs=True)[OUTPUT_NAME].copy()
            except Exception as error:
                raise run_error(self.path, error) from error
        return np.asarray(weights)
