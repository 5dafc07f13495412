"""What a SPLADE encoder is: families, checkpoints, and the PyTorch reference that parity is measured against.

Reading order: :mod:`families` (data) -> :mod:`layout` (which directory holds which side) -> :mod:`checkpoint` (open
one) -> :mod:`reference` (encode text). ``models/default`` is the checkpoint pair that the demo exports.
"""
