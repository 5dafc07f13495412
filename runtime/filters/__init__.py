"""Filters over stored fields: the language of ``--where``, and what a filter means for a document."""

from .formatting import literal, spell_field
from .parser import WhereError, parse_field, parse_where
from .predicate import Field, Predicate

__all__ = ["Field", "Predicate", "WhereError", "literal", "parse_field", "parse_where", "spell_field"]
