"""What a SPLADE encoder is: families, checkpoints, and the reference in PyTorch.

Reading order: :mod:`families` (data) -> :mod:`layout` (which directory holds which side) -> :mod:`opening` -> what it
opens, :mod:`checkpoint` -> :mod:`reference` (encode text). ``models/default`` is the checkpoint pair that the demo
exports.
"""
