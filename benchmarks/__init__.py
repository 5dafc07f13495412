"""The measurements behind the README's figures. Run from the repository's root: ``python -m benchmarks --help``."""
