"""Kill the receiver at random moments under load, and count what is missing: ``-m tests.crash``."""
