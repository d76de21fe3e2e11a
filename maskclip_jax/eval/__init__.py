"""Evaluation: the community's metrics, the benchmarks' protocols, and a diagnosis."""
