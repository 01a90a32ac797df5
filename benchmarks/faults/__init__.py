"""What benchmarks/faults.py consists of: the test hosts, the faults, and how runs are judged."""
