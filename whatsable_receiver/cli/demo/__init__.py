"""``demo``: a receiver on a temporary file, a sender in another process, and what came of it.

samples.py   what is posted, and what should come of it
handlers.py  the receiver that is shown
sender.py    the program that posts
tour.py      every post, one by one, and what the inbox says afterwards
checks.py    whether what happened is what should have happened
printer.py   what people see
command.py   all of this together
"""

from .command import demo

__all__ = ["demo"]
