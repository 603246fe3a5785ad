"""What a model costs: counts, memory, latency, throughput, energy; told once, for suites and for the command."""
