"""Changing an index: documents are added, replaced and deleted, and a commit makes the changes visible in one step.

Begin with updater.py: ``IndexUpdater`` is the public writer; it encodes what is added.

- transaction.py does the changes and the commit, on vectors that are encoded already.
- merge.py makes one segment of several; merge_policy.py decides which ones are merged.
- hold.py makes a process the one writer of an index (with locking.py, a room above), record.py notes in the lock file
  what that writer is about to write, so that the next one can remove what a killed writer left.
- parts.py has the segments of the next generation.

This room builds on build/, whose writers it uses for new segments. Only the modules that write postings load Numba.
"""
