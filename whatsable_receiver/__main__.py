"""``python -m whatsable_receiver``: the command, under its other name."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
