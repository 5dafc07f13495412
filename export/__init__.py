"""From a checkpoint to an artifact: pooled graphs in ONNX and OpenVINO, int8 recipes, and parity tests against the
library that made the checkpoint.

Reading order: :mod:`request` -> :mod:`exporter` -> :mod:`job` (the pipeline) -> :mod:`pooled_module` -> :mod:`to_onnx`
-> :mod:`recipes`, :mod:`backends` and :mod:`variants` (float32 and int8 of each backend) -> :mod:`auto` (int8 chosen by
ranking) -> :mod:`parity` -> :mod:`card`. Commands are in :mod:`cli`, :mod:`compare_cli` and ``optimum_register``.
"""
