"""What a SPLADE encoder is: families, checkpoints, and the reference in PyTorch.

Reading order: :mod:`families` (data) -> :mod:`layout` (which directory holds which side) -> :mod:`checkpoint` (open
one) -> :mod:`reference` (encode text). ``models/default`` is the checkpoint pair that the demo exports.
"""
