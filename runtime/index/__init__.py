"""The inverted index: its format (layout), writing (writer, postings, invert, documents) and reading (index,
segment).
"""

from .index import Index

__all__ = ["Index"]
