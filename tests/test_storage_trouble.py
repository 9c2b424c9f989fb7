"""Full, locked, read-only, replaced, deleted: 503 while it lasts, then it goes on by itself."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import pytest

from .crash.bodies import body
from .crash.books import COMPLETED, effects, opened
from .serving import Answer, Server, serving, until

pytest.importorskip("uvicorn")

IMPATIENT = {"WHATSABLE_KEEP_TIMEOUT": "2"}
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Sender:
    """Posts one message after the other, and keeps what was answered 2xx."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._numbers = count(1)
        self.kept: dict[int, bytes] = {}

    def post(self) -> Answer:
        """The next message; whatever is said, it is a 2xx that is true, or 503."""
        n = next(self._numbers)
        said = body(n, text=f"message {n} " + "x" * 600)
        answer = self._server.post(said)
        if answer.status == 503:
            assert answer.body["status"] == "unavailable"
            assert answer.body["event"] is None
            assert answer.body["reason"]
            assert int(answer.headers["retry-after"]) >= 1
        else:
            assert (answer.status, answer.body["status"]) == (200, "accepted"), answer
            self.kept[answer.body["event"]] = said
        return answer

    def until_refused(self, posts: int = 5000) -> None:
        """Post until the answer is 503."""
        assert any(self.post().status == 503 for _ in range(posts)), "it never said 503"

    def refused(self, posts: int = 3) -> None:
        """Post some more, all of which are answered 503."""
        assert [self.post().status for _ in range(posts)] == [503] * posts

    def refused_at_once(self, posts: int = 8) -> None:
        """Post some more at the same moment, all of which are answered 503."""
        with ThreadPoolExecutor(posts) as senders:
            said = list(senders.map(lambda _: self.post().status, range(posts)))
        assert said == [503] * posts

    def until_accepted(self) -> None:
        """Post until the answer is 2xx, and then some more, which are 2xx too."""
        until(lambda: self.post().status == 200, what="it recovers")
        assert [self.post().status for _ in range(5)] == [200] * 5

    def all_is_there(self, folder: Path) -> None:
        """Everything answered 2xx is stored, byte for byte, and its jobs complete."""
        database = folder / "inbox.db"
        with opened(database) as books:
            until(lambda: not books.unfinished(), what="all jobs are finished")
            raw = {event.id: event.raw for event in books.events()}
            assert {event: raw.get(event) for event in self.kept} == self.kept
            assert {job.state for job in books.jobs()} == {COMPLETED}
            assert books.sound()
        assert {line.event for line in effects(folder)} >= self.kept.keys()


# ---------------------------------------------------------------- full


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own, in memory, that is soon full."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@linux
@as_root
@pytest.mark.parametrize("left", [0, 1, 4096, 65536])
def test_a_full_disk_is_told_and_survived(tmp_path: Path, left: int) -> None:
    """Promises 1 and 8: on a disk with no room, or next to none, what cannot be stored is
    answered 503; once there is room, the same process accepts again and nothing is missing."""
    with small_disk(tmp_path / "disk", "2m") as disk, serving("writing", disk) as server:
        sender = Sender(server)
        for _ in range(20):
            assert sender.post().status == 200
        ballast = disk / "ballast"
        fill(ballast, left)
        sender.until_refused()
        sender.refused()
        sender.refused_at_once()
        ballast.unlink()
        sender.until_accepted()
        sender.all_is_there(disk)
        assert server.health().status == 200


def fill(ballast: Path, left: int) -> None:
    """Write until the disk is full, then let go of ``left`` bytes."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
        file.truncate(max(0, file.tell() - left))


@linux
def test_a_file_that_may_not_grow_is_told_and_survived(tmp_path: Path) -> None:
    """Promises 1 and 8: the same where the limit is the process's own (RLIMIT_FSIZE), and writing
    fails with another error."""
    import resource

    with serving("writing", tmp_path) as server:
        sender = Sender(server)
        for _ in range(20):
            assert sender.post().status == 200
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        size = (tmp_path / "inbox.db-wal").stat().st_size
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size + 9000, hard))
        sender.until_refused()
        sender.refused()
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
        sender.until_accepted()
        sender.all_is_there(tmp_path)


# ---------------------------------------------------------------- locked


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold SQLite's write lock, as a backup or a person with a shell may; call to let go."""
    with closing(sqlite3.connect(folder / "inbox.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield lambda: db.rollback()


def test_a_locked_database_is_told_and_survived(tmp_path: Path) -> None:
    """Promises 1 and 8: while somebody else holds the write lock for longer than a sender waits,
    posts are answered 503 within that time; afterwards all goes on by itself."""
    with serving("writing", tmp_path, env=IMPATIENT) as server:
        sender = Sender(server)
        assert sender.post().status == 200
        with locked(tmp_path) as let_go, ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: sender.post(), range(8)))
            assert {answer.status for answer in answers} == {503}
            assert server.health().status == 503
            let_go()
        sender.until_accepted()
        sender.all_is_there(tmp_path)


def test_a_lock_that_is_let_go_in_time_is_waited_for(tmp_path: Path) -> None:
    """Promises 4 and 8: posts that met a lock of some seconds are accepted after it, and their
    jobs run at once, although nothing else arrives to wake anybody."""
    with serving("writing", tmp_path) as server:
        sender = Sender(server)
        assert sender.post().status == 200
        sender.all_is_there(tmp_path)
        with locked(tmp_path) as let_go, ThreadPoolExecutor(8) as pool:
            server.signal(signal.SIGSTOP)  # so that all of them are there when it goes on
            posts = [pool.submit(sender.post) for _ in range(8)]
            wait(posts, 0.5)
            server.signal(signal.SIGCONT)
            # SQLite's own waiting ends after 5 seconds, and a sender's after 8.
            _, waiting = wait(posts, 5.8)
            let_go()
            assert waiting
            assert 200 in {post.result().status for post in posts}
        with opened(tmp_path / "inbox.db") as books:
            until(lambda: not books.unfinished(), 4, what="the jobs run")
        sender.all_is_there(tmp_path)


# ---------------------------------------------------------------- another file, or none


def backup(folder: Path, name: str) -> Path:
    """A copy of the live inbox, as its operator would make one."""
    copy = folder / name
    with (
        closing(sqlite3.connect(folder / "inbox.db")) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    return copy


def remove(folder: Path) -> None:
    """Take the database away from under the server, with its log."""
    for end in ("", "-wal", "-shm"):
        (folder / f"inbox.db{end}").unlink(missing_ok=True)


def test_a_deleted_database_is_told_and_made_anew(tmp_path: Path) -> None:
    """Promises 1 and 8: what was written to a file that is no longer there is no 2xx; the next
    posts are stored in a new file, which other processes see."""
    with serving("writing", tmp_path) as server:
        sender = Sender(server)
        assert [sender.post().status for _ in range(10)] == [200] * 10
        sender.all_is_there(tmp_path)
        assert server.health().status == 200
        remove(tmp_path)
        sender.kept.clear()  # whoever deletes it deletes what was in it
        sender.refused(1)
        sender.until_accepted()
        sender.all_is_there(tmp_path)
        assert server.health().status == 200


def test_a_deleted_folder_is_told_and_survived(tmp_path: Path) -> None:
    """Promises 1 and 8: with no folder there is nothing to write to; with the folder back the
    same process goes on."""
    place = tmp_path / "place"
    place.mkdir()
    where = {"WHATSABLE_DATABASE": str(place / "inbox.db")}
    with serving("writing", tmp_path, env=where) as server:
        sender = Sender(server)
        assert sender.post().status == 200
        place.rename(tmp_path / "elsewhere")
        sender.refused()
        assert server.health().status == 503
        (tmp_path / "elsewhere").rename(place)
        sender.until_accepted()
        shutil.rmtree(place)
        sender.refused()
        place.mkdir()
        sender.kept.clear()
        sender.until_accepted()
        with opened(place / "inbox.db") as books:
            until(lambda: not books.unfinished())
            raw = {event.id: event.raw for event in books.events()}
        assert {event: raw.get(event) for event in sender.kept} == sender.kept


def test_a_replaced_database_is_told_and_taken(tmp_path: Path) -> None:
    """Promises 1 and 8: where a backup was put in the file's place, nothing that went into the old
    file is a 2xx, and the next posts go into the new one."""
    with serving("writing", tmp_path) as server:
        sender = Sender(server)
        assert [sender.post().status for _ in range(10)] == [200] * 10
        sender.all_is_there(tmp_path)
        assert server.health().status == 200
        copy = backup(tmp_path, "copy.db")
        remove(tmp_path)
        copy.rename(tmp_path / "inbox.db")
        sender.refused(1)
        sender.until_accepted()
        sender.all_is_there(tmp_path)


def test_events_are_read_from_the_file_that_is_there_now(tmp_path: Path) -> None:
    """Promise 4: after the file was replaced, its waiting jobs run with its own events, and not
    with those of the same number in the file before."""
    other = tmp_path / "other"
    other.mkdir()
    with serving("writing", other, env={"WHATSABLE_TEST_WORKERS": "no"}) as accepting:
        assert accepting.post(body(2)).body["event"] == 1
        accepting.stop()
    with serving("writing", tmp_path) as server:
        assert server.post(body(1)).body["event"] == 1
        with opened(tmp_path / "inbox.db") as books:
            until(lambda: not books.unfinished())
        server.health()
        remove(tmp_path)
        (other / "inbox.db").rename(tmp_path / "inbox.db")
        until(lambda: server.post(body(3)).status == 200)
        with opened(tmp_path / "inbox.db") as books:
            until(lambda: not books.unfinished())
    phones = [
        line.phone for line in effects(tmp_path) if line.event == 1 and line.route == "looped"
    ]
    assert phones == ["420777000001", "420777000002"]


@pytest.mark.parametrize("what", ["garbage", "a foreign database", "a folder"])
def test_something_else_in_the_files_place_is_told_and_left_alone(
    tmp_path: Path, what: str
) -> None:
    """Promises 1 and 8: where the file should be is something that is no inbox: 503, and it stays
    as it is; with the inbox back, the same process goes on."""
    database = tmp_path / "inbox.db"
    with serving("writing", tmp_path) as server:
        sender = Sender(server)
        assert [sender.post().status for _ in range(5)] == [200] * 5
        sender.all_is_there(tmp_path)
        copy = backup(tmp_path, "copy.db")
        remove(tmp_path)
        if what == "garbage":
            database.write_bytes(b"garbage " * 1000)
        elif what == "a folder":
            database.mkdir()
        else:
            with closing(sqlite3.connect(database)) as foreign:
                foreign.execute("CREATE TABLE recipes(id INTEGER PRIMARY KEY)")
        before = None if database.is_dir() else database.read_bytes()
        sender.refused(4)
        health = server.health()
        assert (health.status, health.body["writable"]) == (503, False)
        if before is None:
            database.rmdir()
        else:
            assert database.read_bytes() == before
            remove(tmp_path)
        copy.rename(database)
        sender.until_accepted()
        sender.all_is_there(tmp_path)
        assert server.health().status == 200


def test_a_read_only_file_is_told_and_survived(tmp_path: Path) -> None:
    """Promises 1 and 8: a file that may not be written is answered 503; once it may, the same
    process accepts, and what was in it is still there."""
    with serving("writing", tmp_path, within=unprivileged()) as server:
        sender = Sender(server)
        assert [sender.post().status for _ in range(10)] == [200] * 10
        sender.all_is_there(tmp_path)
        copy = backup(tmp_path, "copy.db")
        copy.chmod(0o444)
        remove(tmp_path)
        copy.rename(tmp_path / "inbox.db")
        sender.refused(5)
        assert server.health().status == 503
        (tmp_path / "inbox.db").chmod(0o644)
        sender.until_accepted()
        sender.all_is_there(tmp_path)


def unprivileged() -> Sequence[str]:
    """A command that takes from root what lets it write to any file; nothing for others."""
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root writes to read-only files, and there is no setpriv")
    return (setpriv, "--inh-caps=-dac_override", "--bounding-set=-dac_override")
