"""From a checkpoint to an artifact: pooled graphs in ONNX and OpenVINO, int8 recipes, and the proof against PyTorch.

Reading order: :mod:`options` -> :mod:`exporter` (the pipeline) -> :mod:`graph` -> :mod:`to_onnx`, :mod:`to_openvino` ->
:mod:`recipes` (int8) -> :mod:`parity` -> :mod:`card`. Commands are in :mod:`cli` and ``optimum_register``.
"""
