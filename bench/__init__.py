"""Workloads, peers, and the demo."""
