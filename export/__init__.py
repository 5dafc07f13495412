"""From a checkpoint to an artifact: pooled graphs in ONNX and OpenVINO, int8 recipes, and the proof against PyTorch.

Reading order: :mod:`request` -> :mod:`exporter` -> :mod:`job` (the pipeline) -> :mod:`graph` -> :mod:`to_onnx`,
:mod:`to_openvino` -> :mod:`recipes` and :mod:`graphs` (int8) -> :mod:`choose` (int8 by ranking) -> :mod:`parity` ->
:mod:`card`. Commands are in :mod:`cli` and ``optimum_register``.
"""
