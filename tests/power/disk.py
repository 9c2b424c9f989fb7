"""The disk under one database: what a machine finds there that lost its power a moment ago.

Of each file, what it held at its last fsync or fdatasync; of the folder, the names that it had at
its own. A real disk may have kept more than that, but nobody may count on it.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_name("synced.c")


def compiler() -> str | None:
    """The C compiler of this machine."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path) -> Path:
    """Compile the library that a process must have loaded."""
    library = folder / "synced.so"
    subprocess.run(
        [compiler() or "cc", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True
    )
    return library


class Disk:
    """The disk under ``database``, for processes with the environment ``env``.

    ``deaf`` names a library whose syncs of folders do nothing.
    """

    def __init__(self, database: Path, library: Path, *, deaf: str = "") -> None:
        database = database.resolve()
        self._kept = database.parent / "kept"
        self._kept.mkdir(parents=True)
        self.env = {
            "LD_PRELOAD": str(library),
            "POWER_FILE": str(database),
            "POWER_KEPT": str(self._kept),
            **({"POWER_DEAF": deaf} if deaf else {}),
        }

    @contextmanager
    def image(self) -> Iterator[Path]:
        """The folder of the database as it is found if the power goes now; taken away again."""
        with tempfile.TemporaryDirectory(prefix="whatsable-power-") as found:
            folder = Path(found)
            with (self._kept / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                names = self._kept / "names"
                for line in names.read_text().splitlines() if names.exists() else []:
                    key, name = line.split(" ", 1)
                    file = self._kept / key
                    if file.exists():
                        shutil.copyfile(file, folder / name)
                    else:  # its name was synced, and nothing in it
                        (folder / name).touch()
            yield folder
