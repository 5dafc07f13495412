"""Random damage to small indexes and artifacts: an error that names the file, or the very same answers. And forgeries,
whose checksums fit: an error or answers, within limits of time and memory.

``python -m tests.fuzz --mutations 10000`` (``make fuzz``) runs it in full; tests/runtime/test_fuzz.py a part of it.
"""
