"""Speed and memory of fast paths beside plain twins: `python -m benchmarks` (docs/benchmarks.md)."""
