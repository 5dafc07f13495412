"""Measuring an encoder or an index on this machine: latency, throughput, memory. What ``splade-edge bench`` calls."""

from .measure import GraphReport, IndexReport, measure_encoder, measure_index
from .summary import Latency

__all__ = ["GraphReport", "IndexReport", "Latency", "measure_encoder", "measure_index"]
