"""Training an Efficient SPLADE pair (Lassance & Clinchant, SIGIR 2022, arXiv:2207.03834).

Reading order: :mod:`runfile` (a run as TOML) -> :mod:`collections` (text and judgements) -> :mod:`sampling` (batches)
-> :mod:`initial` (where the weights start) -> :mod:`encoder` (text to sparse vector, with a sparse backward pass) ->
:mod:`teacher` (what is distilled) -> :mod:`objective` (losses, regularizers) -> :mod:`loop` (steps, checkpoints,
resume).
``runs/`` has run files of the paper's systems V and VI-BT.
"""
