"""The ONNX Runtime backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artifact import INPUT_NAMES, OUTPUT_NAME
from ..files import OpenFile
from ..forking import let_be, new_lock, renew_in_child, undivided
from ..telemetry import no_telemetry
from .graph_files import check_names, is_utf8
from .library_errors import load_error, run_error
from .session import Ids, Session, Weights


class OnnxSession(Session):
    """A graph with pooled weights as its output, in ONNX Runtime on the CPU. See :class:`Session`."""

    def __init__(self, path: Path, vocab_size: int, max_length: int, threads: int) -> None:
        super().__init__(path, vocab_size, max_length, threads)
        self._graph = OnnxGraph(path, threads, (OUTPUT_NAME,))

    def _run(self, input_ids: Ids, attention_mask: Ids) -> Weights:
        (weights,) = self._graph.run(input_ids, attention_mask)
        return weights


class OnnxGraph:
    """A graph that ONNX Runtime has loaded.

    Parameters
    ----------
    path : Path
        The ONNX file.
    threads : int
        CPU threads that one call may use.
    outputs : tuple of str
        The names of the outputs that :meth:`run` gives.
    size : int, optional
        Bytes of the file that are the graph, counted from its beginning; None: all.

    Raises
    ------
    ArtifactError
        If the graph does not load, or has other inputs or outputs.
    """

    def __init__(self, path: Path, threads: int, outputs: tuple[str, ...], size: int | None = None) -> None:
        self.path = path
        self._file = OpenFile(path)  # for a child, which may have to load it again
        self._size = size
        self._threads = threads
        self._lock = new_lock()
        self._outputs = list(outputs)
        self._session: Any = self._load(path if size is None and is_utf8(path) else self._first_bytes())
        names = [[i.name for i in self._session.get_inputs()], [o.name for o in self._session.get_outputs()]]
        check_names(path, *names, expected=outputs)
        renew_in_child(self)

    def _load(self, model: Path | bytes) -> Any:
        with undivided, no_telemetry():
            import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # errors are raised as well, and reported on one line
        # Worker threads may spin while a text is encoded (half the latency with two threads), but not between two
        # texts: a device has other things to do.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        ort.disable_telemetry_events()
        try:
            with undivided:
                return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises some ten classes of its own, and those of others
            raise load_error(self.path, f"ONNX Runtime {ort.__version__}", error) from error

    def _first_bytes(self) -> bytes:
        return b"".join(self._file.parts(self._size))

    def renew(self) -> None:
        """After a fork, in the child: drop a session with threads. They are not here, and closing it would wait."""
        if self._threads > 1 and self._session is not None:
            let_be(self._session)
            self._session = None

    def run(self, input_ids: Ids, attention_mask: Ids) -> list[npt.NDArray[Any]]:
        """Compute the outputs.

        Parameters
        ----------
        input_ids, attention_mask : int64 [batch, length]
            See :meth:`Session.run`.

        Returns
        -------
        list of arrays
            In the order of ``outputs``. Their shapes and dtypes are the graph's, and not checked here.

        Raises
        ------
        ArtifactError
            If the graph fails.
        """
        feed = dict(zip(INPUT_NAMES, (input_ids, attention_mask), strict=True))
        if self._session is None:
            with self._lock:
                if self._session is None:
                    self._session = self._load(self._first_bytes())
        try:
            with undivided:
                return [np.asarray(output) for output in self._session.run(self._outputs, feed)]
        except Exception as error:  # ONNX Runtime raises some ten classes of its own, and those of others
            raise run_error(self.path, error) from error
