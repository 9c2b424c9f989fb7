-- Events and their jobs. Times are milliseconds since the epoch, UTC.

CREATE TABLE routes (
  id    INTEGER PRIMARY KEY,           -- the upper 16 bits of a lane: one route's lanes lie together
  name  TEXT NOT NULL UNIQUE
);

CREATE TABLE owners (
  id     INTEGER PRIMARY KEY AUTOINCREMENT,  -- a process that claims; pids come again, these do not
  until  INTEGER NOT NULL                    -- its leases are good until then
);

CREATE TABLE events (
  id           INTEGER PRIMARY KEY,    -- the order of acceptance
  key          BLOB NOT NULL,          -- 4 bytes of the payload's own time + 12 of hash
  fingerprint  BLOB NOT NULL,
  deliveries   INTEGER NOT NULL DEFAULT 1,
  received_at  INTEGER NOT NULL,
  kind         INTEGER NOT NULL,       -- 0 incoming, 1 outgoing, 2 status, 3 quarantined
  account      TEXT NOT NULL,
  phone        TEXT NOT NULL,
  type         TEXT NOT NULL,
  labels       TEXT NOT NULL,
  reason       TEXT,                   -- why it is quarantined
  routes       TEXT,                   -- [[lane, state, reason], ...] as matched; NULL: none
  raw          BLOB                    -- last: lists read nothing of it. NULL: retention took it
);
CREATE UNIQUE INDEX events_key ON events(key, fingerprint);
CREATE INDEX events_quarantined ON events(id) WHERE kind = 3 AND raw IS NOT NULL;

CREATE TABLE jobs (
  id           INTEGER PRIMARY KEY,    -- event * 1000 + n: the jobs of an event are a range
  lane         INTEGER NOT NULL,       -- route << 48 | hash of the conversation
  state        INTEGER NOT NULL,       -- jobs.State
  run_at       INTEGER NOT NULL,
  attempt      INTEGER NOT NULL DEFAULT 0,
  spent        INTEGER NOT NULL DEFAULT 0,
  lease        INTEGER,                -- owner << 20 | which of its claims
  started_at   INTEGER,                -- of the newest attempt
  ended_at     INTEGER,
  reason       TEXT
);
-- All of these are empty when the work is done: finished rows cost only themselves.
CREATE INDEX jobs_available ON jobs(lane, id) WHERE state = 0;
CREATE INDEX jobs_due       ON jobs(run_at)   WHERE state IN (1, 5);
CREATE INDEX jobs_busy      ON jobs(lane, id) WHERE state IN (2, 5);
CREATE INDEX jobs_discarded ON jobs(id)       WHERE state = 4;

CREATE TABLE attempts (               -- those that did not complete; the last one is on the job
  job         INTEGER NOT NULL,
  number      INTEGER NOT NULL,
  started_at  INTEGER NOT NULL,
  ended_at    INTEGER NOT NULL,
  outcome     TEXT NOT NULL,
  reason      TEXT,
  detail      TEXT,
  PRIMARY KEY (job, number)
) WITHOUT ROWID;
