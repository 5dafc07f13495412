"""int8 chosen by ranking (``--recipe auto``): every recipe is tried on the checkpoint at hand.

:mod:`search` tries the recipes; :mod:`retrieval_sets` reads what is ranked, :mod:`ranking` ranks it and compares the
rankings, :mod:`latency` times the encoders, :mod:`vector_cache` keeps their vectors; :mod:`report` is what the search
writes down.
"""
