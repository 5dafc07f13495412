"""Changing an index: the updater, its commits, merging, and the lock."""
