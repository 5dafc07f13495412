"""Limits that writers of an index share. This module imports nothing, so that a delete does not load the writers."""

DEFAULT_MEMORY = 512 << 20  # bytes for postings
# Units of the smallest segment with block-max data: term-at-a-time is as fast for fewer.
BLOCK_MAX_FROM = 4096
