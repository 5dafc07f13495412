"""Filters over stored fields: the language of ``--where``, and what a filter means for a document."""

from .formatting import format_field, literal
from .parser import WhereError, parse_field, parse_where
from .predicate import Field, Predicate

__all__ = ["Field", "Predicate", "WhereError", "format_field", "literal", "parse_field", "parse_where"]
