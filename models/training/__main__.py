"""``python -m splade_edge.models.training``: ``splade-edge train`` for an interpreter of your choice."""

import sys

from ...runtime.cli.main import run

sys.argv.insert(1, "train")
run()
