"""Checking an index byte by byte, and recovery of what is left of a damaged one.

Begin with check.py: ``check_index`` finds every damaged file. recovery.py makes a new index of everything that can be
saved (``repair_index``), with the help of segment_recovery.py (documents and fields of one segment) and
postings_recovery.py (its postings). ``splade-edge check`` and its option ``--repair`` call these two functions.
"""
