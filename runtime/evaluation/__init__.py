"""Measures of runs against judgements, and the TREC formats."""
