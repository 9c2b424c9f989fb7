"""The power goes: a disk that forgets what was not synced, put under a real server."""
