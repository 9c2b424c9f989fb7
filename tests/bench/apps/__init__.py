"""The servers under test: the yardsticks that a user would otherwise write, and ours."""
