"""What gives a text its weights, behind one small interface: a graph in ONNX Runtime or OpenVINO, or a table.

ONNX Runtime accepts a token id of -1 and a length of 0 without a word, and a graph with the row mask is wrong when
position 0 is masked; so inputs are validated here, before an engine sees them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artifact import INPUT_NAMES, OUTPUT_NAME
from ..errors import ArtifactError, InputError, MissingExtraError, export_again
from ..files import NOT_THERE, OpenFile, reading
from ..forking import Owner, let_be, new_lock, renew_in_child, undivided
from ..telemetry import no_telemetry
from ..vectors import SparseVector, from_dense

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


class Session(ABC):
    """One graph, loaded and ready. Safe to call from several threads.

    ``vocab_size`` bounds the token ids and is the width of the output; ``max_length`` bounds the length of a text.
    """

    def __init__(self, path: Path, vocab_size: int, max_length: int, threads: int) -> None:
        self.path = path
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.threads = threads

    def run(self, input_ids: Ids, attention_mask: Ids) -> Weights:
        """Weights, float32 ``[batch, vocab_size]``, of right-padded ids and their mask, both int64 ``[batch, length]``.

        Raises InputError for ids or a mask the graph is not defined on, ArtifactError if the graph fails or gives
        anything but finite, non-negative weights.
        """
        check_inputs(input_ids, attention_mask, self.vocab_size, self.max_length)
        weights = self._run(np.ascontiguousarray(input_ids), np.ascontiguousarray(attention_mask))
        if weights.shape != (input_ids.shape[0], self.vocab_size) or weights.dtype != np.float32:
            raise ArtifactError(
                f"{self.path} gives {weights.dtype} {list(weights.shape)} where its manifest promises float32 "
                f"[{input_ids.shape[0]}, {self.vocab_size}]; {export_again()}"
            )
        # A NaN makes min() NaN and an infinity shows in max(): two passes, no temporary.
        if not (weights.min() >= 0 and weights.max() < np.inf):
            raise ArtifactError(f"{self.path} gives weights that are negative or not finite; use another precision")
        return weights

    def vectors(self, input_ids: Ids, attention_mask: Ids) -> list[SparseVector]:
        """:meth:`run` as the sparse vector of each text."""
        return [from_dense(row) for row in self.run(input_ids, attention_mask)]

    def vector(self, ids: list[int]) -> SparseVector:
        """:meth:`vectors` of one text."""
        input_ids = np.array([ids], np.int64)
        return self.vectors(input_ids, np.ones_like(input_ids))[0]

    def restricted(self, terms: npt.NDArray[np.int32]) -> Session:
        """A session that gives weights to these terms alone (ascending), or this one where that gains nothing."""
        return self

    @abstractmethod
    def _run(self, input_ids: Ids, attention_mask: Ids) -> Weights: ...


class OnnxSession(Session):
    """A graph in ONNX Runtime on the CPU."""

    def __init__(self, path: Path, vocab_size: int, max_length: int, threads: int) -> None:
        super().__init__(path, vocab_size, max_length, threads)
        self._graph = OnnxGraph(path, threads, (OUTPUT_NAME,))

    def _run(self, input_ids: Ids, attention_mask: Ids) -> Weights:
        (weights,) = self._graph.run(input_ids, attention_mask)
        return weights


class OnnxGraph:
    """ONNX Runtime with a graph from ``path``, or from its first ``size`` bytes, that has these ``outputs``."""

    def __init__(self, path: Path, threads: int, outputs: tuple[str, ...], size: int | None = None) -> None:

        self.path = path
        self._file = OpenFile(path)  # for a child, which may have to load it again
        self._size = size
        self._threads = threads
        self._lock = new_lock()
        self._outputs = list(outputs)
        self._session: Any = self._load(path if size is None and _is_utf8(path) else self._first_bytes())
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
        options.log_severity_level = 4  # errors are raised as well, and told in one line
        # Worker threads may spin while a text is encoded (half the latency with two threads), but not between two
        # texts: a device has other things to do.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        ort.disable_telemetry_events()
        try:
            with undivided:
                return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # it has some ten classes of errors, and lets those of others through
            raise _does_not_load(self.path, f"ONNX Runtime {ort.__version__}", error) from error

    def _first_bytes(self) -> bytes:
        return b"".join(self._file.parts(self._size))

    def renew(self) -> None:
        """In a child: the engine's threads, if it has some, are not here, and its end would wait for them."""
        if self._threads > 1 and self._session is not None:
            let_be(self._session)
            self._session = None

    def run(self, input_ids: Ids, attention_mask: Ids) -> list[npt.NDArray[Any]]:
        """The outputs, in the order they were asked for. Raises ArtifactError if the graph fails."""
        feed = dict(zip(INPUT_NAMES, (input_ids, attention_mask), strict=True))
        if self._session is None:
            with self._lock:
                if self._session is None:
                    self._session = self._load(self._first_bytes())
        try:
            with undivided:
                return [np.asarray(output) for output in self._session.run(self._outputs, feed)]
        except Exception as error:  # it has some ten classes of errors, and lets those of others through
            raise _fails(self.path, error) from error


def _is_utf8(path: Path) -> bool:
    """Whether an engine can be given the path, which it takes in UTF-8 alone."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


class OpenVinoSession(Session):
    """A graph in OpenVINO on the CPU, in float32 where it is not int8 (OpenVINO's default is bfloat16).

    Not for children of a process that has used OpenVINO: there it hangs, while it loads a graph, encodes, or ends. It
    is refused there.
    """

    _user: Owner | None = None  # the process that has used it

    def __init__(self, path: Path, vocab_size: int, max_length: int, threads: int) -> None:
        super().__init__(path, vocab_size, max_length, threads)
        self._refuse_child()
        try:
            with undivided, no_telemetry():
                import openvino as ov
        except ImportError:
            raise MissingExtraError("the OpenVINO backend", "openvino") from None
        if not _is_utf8(path):
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
            raise _does_not_load(path, f"OpenVINO {ov.__version__}", error) from error
        names = [[next(iter(port.get_names()), "") for port in ports] for ports in (compiled.inputs, compiled.outputs)]
        check_names(path, *names, expected=(OUTPUT_NAME,))
        self._lock = new_lock()  # an infer request holds its input and output tensors
        renew_in_child(self)

    def renew(self) -> None:
        """In a child: the end of what the parent loaded would wait for threads that are not here."""
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
                raise _fails(self.path, error) from error
        return np.asarray(weights)


class TableSession(Session):
    """Gives every text the whole table of a query side without an encoder; no engine is loaded."""

    def __init__(self, path: Path, vocab_size: int, max_length: int, threads: int) -> None:
        super().__init__(path, vocab_size, max_length, threads)
        with whole(path):
            data = path.read_bytes()
        if len(data) != 4 * vocab_size:
            raise ArtifactError(f"{path} does not hold {vocab_size} float32 weights; {export_again()}")
        self._table = np.frombuffer(data, "<f4").astype(np.float32, copy=False)

    def _run(self, input_ids: Ids, attention_mask: Ids) -> Weights:
        return np.tile(self._table, (len(input_ids), 1))


@contextmanager
def whole(path: Path, wrong: str = "") -> Iterator[None]:
    """Reading a graph's file, that is: raises StorageError where the system refuses it, and ArtifactError where it is
    gone or not what it should be (ValueError); ``wrong`` says what that is.
    """
    try:
        with reading(path):
            yield
    except NOT_THERE as error:
        raise ArtifactError(f"cannot read {path} ({error.strerror}); {export_again()}") from None
    except ValueError:
        raise ArtifactError(f"{wrong}; {export_again()}") from None


def check_inputs(input_ids: Ids, attention_mask: Ids, vocab_size: int, max_length: int) -> None:
    """Raise InputError for ids or a mask that graphs are not defined on (see :meth:`Session.run`)."""
    if input_ids.ndim != 2 or 0 in input_ids.shape or input_ids.dtype != np.int64:
        raise InputError(f"token ids are {input_ids.dtype} {list(input_ids.shape)}; give int64 [batch, length], none 0")
    if input_ids.shape[1] > max_length:
        raise InputError(f"a text of {input_ids.shape[1]} tokens is longer than the {max_length} the encoder takes")
    if attention_mask.shape != input_ids.shape or attention_mask.dtype != np.int64:
        raise InputError(
            f"the mask is {attention_mask.dtype} {list(attention_mask.shape)}; give int64 {list(input_ids.shape)}"
        )
    if input_ids.view(np.uint64).max() >= vocab_size:  # a negative one too
        low, high = int(input_ids.min()), int(input_ids.max())
        raise InputError(f"token id {low if low < 0 else high} is outside the vocabulary of {vocab_size} terms")
    if attention_mask.min() == 1 == attention_mask.max():  # nothing is padded, as with every text alone
        return
    # Ones, then zeros: starts with 1, never rises, and holds nothing else.
    if not (
        (attention_mask[:, 0] == 1).all()
        and (attention_mask.min() >= 0)
        and (attention_mask[:, 1:] <= attention_mask[:, :-1]).all()
    ):
        raise InputError("a mask row is empty or padded on the left; pad on the right, with at least one token")


def check_names(path: Path, inputs: list[str], outputs: list[str], *, expected: tuple[str, ...]) -> None:
    """Raise ArtifactError unless a graph takes our inputs and gives the ``expected`` outputs."""
    if sorted(inputs) != sorted(INPUT_NAMES) or not set(expected) <= set(outputs):
        raise ArtifactError(
            f"{path} takes {', '.join(inputs)} and gives {', '.join(outputs)}, not {', '.join(INPUT_NAMES)} and "
            f"{', '.join(expected)}; {export_again()}"
        )


def _does_not_load(path: Path, engine: str, error: Exception) -> ArtifactError:
    """The error for a graph that an engine refuses. Raises StorageError where the system refuses the file to us too."""
    with suppress(*NOT_THERE):
        OpenFile(path).close()
    return ArtifactError(f"{path} does not load in {engine} ({_first_line(error)}); upgrade it, or {export_again()}")


def _fails(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path} failed while encoding ({_first_line(error)}); try another backend or precision")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
