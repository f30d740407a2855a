"""Graph to graph: simplification, fusion, ordering, memory planning."""
