"""Checking an index in full, and saving what can be saved of a damaged one."""
