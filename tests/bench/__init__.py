"""The benchmark: each figure beside its yardstick in the same run. ``python -m tests.bench``."""
