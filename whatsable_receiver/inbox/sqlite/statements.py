"""What the writer says to SQLite: one statement a step, with whole batches as one text."""

from __future__ import annotations

LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # sizes of the accept statement, prepared once each

# A temporary trigger, because it belongs to the statement beside it and not to the file.
ACCEPT_TRIGGER = """
CREATE TEMP TRIGGER accept AFTER INSERT ON main.events WHEN NEW.routes IS NOT NULL BEGIN
  INSERT INTO jobs(id, lane, state, run_at, reason)
  SELECT NEW.id * 1000 + 1 + r.key, r.value->>0, r.value->>1, NEW.received_at, r.value->>2
  FROM json_each(NEW.routes) r;
END
"""

_COLUMNS = (
    "key, fingerprint, deliveries, received_at, kind, account, phone, type, labels, reason, "
    "routes, raw"
)


def _accept(size: int) -> str:
    # Naming (key, fingerprint) matters: a clash of ids must fail, not count as a redelivery.
    # The WHERE drops the padding, and keeps ON CONFLICT from being read as a join.
    row = "(" + ", ".join("?" * 13) + ")"
    columns = [f"column{n}" for n in range(2, 14)]
    columns[9:11] = "nullif(column11, '')", "nullif(column12, '')"  # reason and routes
    chosen = ", ".join(columns)
    return (
        f"INSERT INTO events(id, {_COLUMNS}) "
        f"SELECT (SELECT coalesce(max(id), 0) FROM events) + column1, {chosen} "
        f"FROM (VALUES {', '.join([row] * size)}) WHERE column1 > 0 "
        "ON CONFLICT(key, fingerprint) DO UPDATE SET deliveries = deliveries + excluded.deliveries"
    )


def _identify(size: int) -> str:
    return (
        "SELECT json_group_array(json(coalesce((SELECT json_array(id, deliveries) "
        "FROM events INDEXED BY events_key WHERE key = column1 AND fingerprint = column2), "
        f"'null'))) FROM (VALUES {', '.join(['(?, ?)'] * size)})"
    )


ACCEPT = {size: _accept(size) for size in LADDER}
IDENTIFY = {size: _identify(size) for size in LADDER}
PADDING = [0] * 13

# In:  [[id, lease, state, run_at, attempt, spent, started_at, ended_at, reason], ...]
SAVE = """
UPDATE jobs SET state = s.value->>2, run_at = s.value->>3, attempt = s.value->>4,
  spent = s.value->>5, started_at = s.value->>6, ended_at = s.value->>7, reason = s.value->>8
FROM json_each(:saves) s
WHERE jobs.id = s.value->>0 AND jobs.lease = s.value->>1 AND jobs.state = 2
"""
# In:  [[id, lease, started_at, ended_at], ...]: most outcomes need no more than this.
COMPLETE = """
UPDATE jobs SET state = 3, started_at = c.value->>2, ended_at = c.value->>3, reason = NULL
FROM json_each(:completed) c
WHERE jobs.id = c.value->>0 AND jobs.lease = c.value->>1 AND jobs.state = 2
"""
# In:  [[job, lease, number, started_at, ended_at, outcome, reason, detail], ...]; before SAVE
ATTEMPTS = """
INSERT OR REPLACE INTO attempts
SELECT a.value->>0, a.value->>2, a.value->>3, a.value->>4, a.value->>5, a.value->>6, a.value->>7
FROM json_each(:attempts) a
WHERE EXISTS (SELECT 1 FROM jobs WHERE id = a.value->>0 AND lease = a.value->>1 AND state = 2)
"""
WAKE = """
UPDATE jobs SET state = 0 WHERE id IN (
  SELECT id FROM jobs INDEXED BY jobs_due
  WHERE state IN (1, 5) AND run_at <= :now ORDER BY run_at LIMIT :step)
"""
NEXT_DUE = "SELECT min(run_at) FROM jobs INDEXED BY jobs_due WHERE state IN (1, 5)"

# In:  [[lane before the first, lane after the last, free lanes wanted, lanes to look at], ...]
# Out: one row of JSON: [[looked at, last lane, [[lane, jobs], ...]], ...], where a job is
#      [id, run_at, attempt, spent, lost]
# It jumps from lane to lane instead of sorting jobs: a naive "oldest first" reads 44,000 jobs a
# second from many conversations and 20 a second from one.
# In brackets, or "free + NOT EXISTS (...) < wanted" means something else.
_FREE = (
    "(NOT EXISTS (SELECT 1 FROM jobs b INDEXED BY jobs_busy "
    "WHERE b.state IN (2, 5) AND b.lane = l.lane))"
)
# Whether the last two attempts were lost with their processes.
_LOST = (
    "attempt > 1 AND (SELECT count(*) FROM attempts a WHERE a.job = id "
    "AND a.number > attempt - 2 AND a.outcome = 'lost') = 2"
)
CLAIM = f"""
SELECT json_group_array(json((
  WITH RECURSIVE l(lane, free, looked) AS (
    SELECT (SELECT lane FROM jobs INDEXED BY jobs_available WHERE state = 0
            AND lane > w.value->>0 AND lane < w.value->>1 ORDER BY lane LIMIT 1), 0, 1
    UNION ALL
    SELECT (SELECT lane FROM jobs INDEXED BY jobs_available WHERE state = 0
            AND lane > l.lane AND lane < w.value->>1 ORDER BY lane LIMIT 1),
           free + {_FREE}, looked + 1
    FROM l WHERE l.lane IS NOT NULL AND looked < w.value->>3 AND free + {_FREE} < w.value->>2)
  SELECT json_array(max(looked) FILTER (WHERE lane IS NOT NULL), max(lane),
    json_group_array(json_array(lane, json((
      SELECT json_group_array(json_array(id, run_at, attempt, spent, {_LOST})) FROM (
        SELECT id, run_at, attempt, spent FROM jobs INDEXED BY jobs_available
        WHERE state = 0 AND lane = l.lane ORDER BY id LIMIT :run)))))
    FILTER (WHERE lane IS NOT NULL AND {_FREE}))
  FROM l))) FROM json_each(:wants) w
"""
LEASE = """
UPDATE jobs SET state = 2, lease = :lease, started_at = :now, attempt = attempt + 1,
  spent = spent + 1
WHERE id IN (SELECT value FROM json_each(:ids))
"""
# One row a process, and not one a job: the leases of a thousand jobs are renewed at once.
RENEW = """
INSERT INTO owners(id, until) VALUES (:owner, :until)
ON CONFLICT(id) DO UPDATE SET until = excluded.until
"""
LEASED = """
SELECT count(*) FROM jobs INDEXED BY jobs_busy
WHERE state IN (2, 5) AND state = 2 AND lease >> 20 = :owner
"""
# Never those of ``:owner``, which is alive: a clock set forward must not make it doubt itself.
_LATE = (
    "state IN (2, 5) AND state = 2 AND lease >> 20 NOT IN "
    "(SELECT id FROM owners WHERE until >= :now OR id = :owner)"
)
# The head of each lane is read before anything is changed: an UPDATE whose subquery reads the
# rows it changes would charge every job of the lane, one after the other.
EXPIRED = f"""
SELECT json_group_array(json_array(id, lane, run_at, attempt, spent, started_at)) FROM (
  SELECT min(id) AS id, lane, run_at, attempt, spent, started_at FROM jobs INDEXED BY jobs_busy
  WHERE {_LATE} GROUP BY lane)
"""
FREE_FOLLOWERS = f"""
UPDATE jobs SET state = 0, started_at = NULL, attempt = attempt - 1, spent = spent - 1
WHERE id IN (SELECT id FROM jobs INDEXED BY jobs_busy WHERE {_LATE})
  AND id NOT IN (SELECT value FROM json_each(:heads))
"""
MORE_OF_LANES = f"""
SELECT json_group_array(json_array(l.value, json((
  SELECT json_group_array(json_array(id, run_at, attempt, spent, {_LOST})) FROM (
    SELECT id, run_at, attempt, spent FROM jobs INDEXED BY jobs_available
    WHERE state = 0 AND lane = l.value ORDER BY id LIMIT :run))))) FROM json_each(:lanes) l
"""
