"""Measuring an encoder or an index on this machine: latency, throughput, memory. ``splade-edge bench`` calls this room.

Begin with measure.py: ``measure_encoder`` and ``measure_index`` start worker.py in a process of its own, through
process.py, and ask it in turns. summary.py makes percentiles of single times, texts.py provides queries and documents,
machine.py describes the machine. approximation.py compares approximate with exact search.
"""

from .measure import GraphReport, IndexReport, measure_encoder, measure_index
from .summary import Latency

__all__ = ["GraphReport", "IndexReport", "Latency", "measure_encoder", "measure_index"]
