"""This release's version, as installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("splade-edge")
except PackageNotFoundError:  # run from a source tree that was not installed
    VERSION = "0+unknown"

MADE_BY = f"splade-edge {VERSION}"
