"""Evaluation: the measures of a run against judgements (qrels), and the TREC and BEIR files of both.

Begin with measures.py: ``parse_measures`` and ``evaluate`` compute every measure by ir-measures; nothing else in the
project may compute one by hand. trec.py reads queries, qrels and runs, and writes runs. ``splade-edge eval`` shows how
the two are used together.
"""

DEFAULT_MEASURES = "nDCG@10 RR@10 R@100"  # names of ir-measures
DEFAULT_DEPTH = 1000  # results of a query, where a measure has no cutoff
