"""Texts to sparse vectors: tokenizer, engine sessions, batching."""

from .encoder import Encoded, Encoder

__all__ = ["Encoded", "Encoder"]
