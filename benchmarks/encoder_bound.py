"""How fast a query encoder could be: its matrix products in int8 by the fastest code at hand, and its bytes read once.

For each product ``[tokens, k] x [k, n]`` of the encoder the fastest of: ONNX Runtime's MatMulInteger, PyTorch's
``_int_mm`` (oneDNN), PyTorch's quantized linear layer, and our decoder's kernel (which also takes the maximum). Small
matrices are multiplied many in a call, so that what a call from Python takes is not in the bound. To the
sum of these times come the bytes of all int8 weights over the rate at which one core reads an array too large for its
second-level cache. Everything else (attention, normalization, tokens, Python) is left out, so nothing can reach it.

Not run by itself. Used by :mod:`benchmarks.encoder`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

_REPEAT = 60
_CALL = 1 << 19  # weights in a call: a smaller matrix is there several times, which still fits in the caches


@dataclass(frozen=True)
class Shape:
    """``times`` products with a ``[k, n]`` matrix."""

    k: int
    n: int
    times: int = 1


@dataclass(frozen=True)
class Bound:
    """Milliseconds of the products and of reading the weights, and which code was fastest for the vocabulary."""

    products: float
    reading: float
    fastest: str

    @property
    def total(self) -> float:
        return self.products + self.reading


def encoder_shapes(layers: int, hidden: int, intermediate: int, vocab: int) -> list[Shape]:
    """The matrix products of a BERT-like encoder.

    Parameters
    ----------
    layers, hidden, intermediate, vocab : int
        The sizes of the encoder.

    Returns
    -------
    list of Shape
        Attention's four and the feed-forward part's two, then the head's and the vocabulary's.
    """
    return [
        Shape(hidden, hidden, 4 * layers + 1),
        Shape(hidden, intermediate, layers),
        Shape(intermediate, hidden, layers),
        Shape(hidden, vocab),
    ]


def measure_bound(shapes: list[Shape], tokens: int) -> Bound:
    """Measure how fast a query encoder could be.

    Parameters
    ----------
    shapes : list of Shape
        Its products; the last is the vocabulary's.
    tokens : int
        The length of the text.

    Returns
    -------
    Bound
        The times of the fastest code for each product, and of reading the weights.
    """
    products, fastest = 0.0, ""
    for shape in shapes:
        copies = max(1, _CALL // (shape.k * shape.n))
        side_by_side = Shape(shape.k, shape.n * copies)
        times = {name: _best(call) / copies for name, call in _candidates(side_by_side, tokens)}
        fastest = min(times, key=lambda name: times[name])
        products += shape.times * times[fastest]
    size = sum(shape.times * shape.k * shape.n for shape in shapes)
    return Bound(1e3 * products, 1e3 * size / read_rate(), fastest)


def read_rate() -> float:
    """Bytes a second that one core reads from an array of 8 MB."""
    numbers = np.ones(1 << 21, np.float32)
    return numbers.nbytes / _best(lambda: float(numbers @ numbers), 200)


def _candidates(shape: Shape, tokens: int) -> Iterator[tuple[str, Callable[[], object]]]:
    rng = np.random.default_rng(0)
    a = rng.integers(1, 256, (tokens, shape.k)).astype(np.uint8)
    b = rng.integers(-63, 64, (shape.n, shape.k)).astype(np.int8)
    yield "our kernel", _ours(a, b)
    yield "ONNX Runtime", _onnxruntime(a, b)
    yield from _torch(a, b)


def _ours(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    from splade_edge.runtime.encoder.native.decoder import DecoderRows, KernelDecoder

    ones = np.ones(len(b), np.float32)
    decoder = KernelDecoder(DecoderRows(b, ones, np.full(len(b), -1e9, np.float32)), None, "relu")
    return lambda: decoder.decode(a, np.float32(1))


def _onnxruntime(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b", "zero"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, list(a.shape))],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [len(a), len(b)])],
        [numpy_helper.from_array(np.ascontiguousarray(b.T), "b"), numpy_helper.from_array(np.uint8(128), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"a": a}
    return lambda: session.run(None, feed)


def _torch(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[str, Callable[[], object]]]:
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)
    signed = torch.from_numpy((a.astype(np.int16) - 128).clip(-127, 127).astype(np.int8))
    columns = torch.from_numpy(b).T
    for layout, matrix in (("rows", columns), ("columns", columns.contiguous())):
        try:
            torch._int_mm(signed, matrix)
        except (RuntimeError, AttributeError):
            continue
        yield f"PyTorch _int_mm ({layout})", partial(torch._int_mm, signed, matrix)
    for engine in ("x86", "onednn"):
        try:
            torch.backends.quantized.engine = engine
            weight = torch.quantize_per_tensor(torch.from_numpy(b.astype(np.float32)), 1.0, 0, torch.qint8)
            packed = torch.ops.quantized.linear_prepack(weight, None)
            x = torch.quantize_per_tensor(torch.from_numpy(a.astype(np.float32) - 128), 1.0, 128, torch.quint8)
            torch.ops.quantized.linear(x, packed, 1.0, 128)
        except RuntimeError:
            continue
        yield f"PyTorch quantized ({engine})", partial(torch.ops.quantized.linear, x, packed, 1.0, 128)


def _best(call: Callable[[], object], repeat: int = _REPEAT) -> float:
    call()
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best
