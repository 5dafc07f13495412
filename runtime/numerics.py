"""One number for everything in a release that decides which vector a text gets.

An artifact's files do not decide it alone: the runtime puts a prompt before the text, cuts it, and computes. An
artifact states the number of the release that exported it, and an index that of the artifact that made its vectors.
Vectors of different numbers do not belong in one index.

NUMERICS is raised by a release in which some text gets another vector, be it by its last bit:

- another order of operations, another constant or another rounding in the kernels or their NumPy forms
  (``encoder/native/``: transformer, decoder, products, quantized_rows, logarithm);
- another rule for what is applied to a text before the graph, or to the weights after it (``encoder/tokenizer.py``,
  ``encoder/shaping.py``), or another reading of the checkpoint at export.

It is not raised by what leaves all vectors as they are (a faster kernel of the same arithmetic, a new recipe), nor by
a new release of an engine (ONNX Runtime, OpenVINO), which nothing here can know.

History:

0   Artifacts of the formats 1 to 5, before numerics were numbered. Prompts, lengths of one side, ``max_active_dims``,
    normalization, ``truncation_side`` and ``split_special_tokens`` of a checkpoint were not applied. The logarithm was
    NumPy's, which differs between CPUs in the last place, of 1 + x rounded to float32.
1   All of these are applied. The logarithm is written out: the same bits on every CPU, within a unit in the last place
    of log(1 + x).
"""

from __future__ import annotations

import warnings
from pathlib import Path

from .errors import INDEX_AGAIN, ArtifactError, SpladeEdgeWarning, export_again
from .forking import new_lock

NUMERICS = 1

_warned: set[Path] = set()
_lock = new_lock()


def check_numerics(path: Path, number: int) -> None:
    """Warn, once per process and path, of an artifact of an earlier number. Raises ArtifactError for a later one."""
    if number > NUMERICS:
        raise ArtifactError(
            f"{path} was exported with numerics {number}; this release computes with {NUMERICS}: upgrade splade-edge"
        )
    if number == NUMERICS:
        return
    where = path.resolve()
    with _lock:
        if where in _warned:
            return
        _warned.add(where)
    try:
        warnings.warn(
            f"{path} was exported before numerics {NUMERICS} (it has {number}); its vectors may differ from its "
            f"checkpoint's; {export_again()} and {INDEX_AGAIN}",
            SpladeEdgeWarning,
            stacklevel=4,
        )
    except SpladeEdgeWarning:  # where warnings are errors, each attempt is one
        _warned.discard(where)
        raise
