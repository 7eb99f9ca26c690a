"""`flex-judge eval`: benchmarks of a judge."""
