-- The whole current schema. A fresh database is made from this file; an older one is brought here by
-- the migrations in happy_light/store/sqlite/schema.py (user_version says how far it is).
--
-- Times (*_at) are milliseconds since the epoch, binary values are BLOBs, and text that a client
-- encrypted is kept exactly as it came. Ids that the server makes sort by creation time.

-- One row per thing the server has to remember about itself (for instance a check value of the secret).
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE accounts (
    id               TEXT PRIMARY KEY,
    public_key       TEXT NOT NULL UNIQUE,           -- Ed25519, upper-case hex
    seq              INTEGER NOT NULL DEFAULT 0,     -- of the last update sent; no gaps, never back
    feed_seq         INTEGER NOT NULL DEFAULT 0,     -- of the last feed item
    settings         TEXT,
    settings_version INTEGER NOT NULL DEFAULT 0,
    first_name       TEXT,
    last_name        TEXT,
    username         TEXT UNIQUE,
    avatar           TEXT,                           -- JSON {path, width, height, thumbhash}
    github_user_id   TEXT UNIQUE REFERENCES github_users (id) ON DELETE SET NULL,
    tokens_since     INTEGER NOT NULL DEFAULT 0,     -- s; for tokens that carry no generation: older ones are invalid
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    token_generation INTEGER NOT NULL DEFAULT 0,     -- how often it was signed out everywhere; tokens carry it
    label            TEXT,                           -- what the operator calls it
    device_sign_outs INTEGER NOT NULL DEFAULT 0      -- how often one of its devices was signed out
) STRICT;
-- A user search is a prefix search without regard to case.
CREATE INDEX accounts_by_username ON accounts (lower(username));

-- Who may make an account although registration is closed; goes when the account is made.
CREATE TABLE allowed_keys (
    fingerprint TEXT PRIMARY KEY,                    -- of the account's public key
    created_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE github_users (
    id         TEXT PRIMARY KEY,                     -- GitHub's own id
    profile    TEXT NOT NULL,                        -- JSON as GitHub answered
    token      BLOB,                                 -- sealed with the account's key
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- A terminal that asks to be let in (kind 'terminal'), or a second device ('account').
CREATE TABLE auth_requests (
    id          TEXT PRIMARY KEY,
    kind        TEXT NOT NULL CHECK (kind IN ('terminal', 'account')),
    public_key  TEXT NOT NULL,                       -- X25519, upper-case hex
    supports_v2 INTEGER NOT NULL DEFAULT 0,
    response    TEXT,                                -- sealed by the approving device
    account_id  TEXT REFERENCES accounts (id) ON DELETE CASCADE,
    picked_up_at INTEGER,                            -- first time the token was handed out
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    approved_by TEXT,                                -- the device that approved it
    device_id   TEXT,                                -- the device that picked it up: the jti of its token
    UNIQUE (kind, public_key)
) STRICT;
CREATE INDEX auth_requests_by_age ON auth_requests (created_at);
CREATE INDEX auth_requests_by_pick_up ON auth_requests (picked_up_at) WHERE picked_up_at IS NOT NULL;
CREATE INDEX auth_requests_by_account ON auth_requests (account_id);

-- Who is signed in: a token is valid while the device that its jti names is here. 'unknown' is the device of all tokens
-- of the account that other servers and older versions made.
CREATE TABLE devices (
    account_id   TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    id           TEXT NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('signature', 'terminal', 'link', 'import', 'older', 'secret')),
    approved_by  TEXT,                               -- the device that approved it; may be gone
    client       TEXT,                               -- name and version of its program
    address      TEXT,                               -- where it signed in from
    created_at   INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,                   -- up to 10 minutes behind
    PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;

-- Sign-in challenges that were used, until they are too old to be used again.
CREATE TABLE used_challenges (
    challenge  BLOB PRIMARY KEY,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX used_challenges_by_age ON used_challenges (expires_at);

-- A project groups sessions.
CREATE TABLE projects (
    id                  TEXT PRIMARY KEY,
    account_id          TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    external_id         TEXT NOT NULL,               -- the client's own name for it
    metadata            TEXT NOT NULL,
    metadata_version    INTEGER NOT NULL DEFAULT 1,
    data_encryption_key TEXT,                        -- base64, as it travels
    avatar_ref          TEXT,                        -- of the active picture; NULL if there is none
    avatar_preview      TEXT,                        -- encrypted; NULL if there is no active picture
    avatar_version      INTEGER NOT NULL DEFAULT 0,  -- rises with every change of the picture, removals too
    seq                 INTEGER NOT NULL DEFAULT 0,  -- rises with every change of metadata or picture
    created_at          INTEGER NOT NULL,
    updated_at          INTEGER NOT NULL,
    UNIQUE (account_id, external_id)
) STRICT;
CREATE INDEX projects_by_change ON projects (account_id, updated_at DESC, id);

CREATE TABLE sessions (
    id                  TEXT PRIMARY KEY,
    account_id          TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    tag                 TEXT NOT NULL,
    seq                 INTEGER NOT NULL DEFAULT 0,  -- of the newest message; messages have 1..seq
    metadata            TEXT NOT NULL,
    metadata_version    INTEGER NOT NULL DEFAULT 0,
    agent_state         TEXT,
    agent_state_version INTEGER NOT NULL DEFAULT 0,
    data_encryption_key TEXT,                        -- base64, as it travels
    project_id          TEXT REFERENCES projects (id) ON DELETE SET NULL,
    machine_id          TEXT,                        -- the machine that publishes it; need not be registered
    avatar_ref          TEXT,                        -- as in projects
    avatar_preview      TEXT,
    avatar_version      INTEGER NOT NULL DEFAULT 0,
    active              INTEGER NOT NULL DEFAULT 1,
    active_at           INTEGER NOT NULL,
    created_at          INTEGER NOT NULL,
    updated_at          INTEGER NOT NULL,
    UNIQUE (account_id, tag)
) STRICT;
-- GET /v1/sessions: newest change first. changedSince: only what changed, however many there are.
CREATE INDEX sessions_by_change ON sessions (account_id, updated_at DESC, id);
-- GET /v2/sessions pages by id.
CREATE INDEX sessions_by_id ON sessions (account_id, id);
-- GET /v2/sessions/active, and the sweep for silent ones.
CREATE INDEX sessions_active ON sessions (account_id, active_at DESC) WHERE active = 1;
CREATE INDEX sessions_silent ON sessions (active_at) WHERE active = 1;
CREATE INDEX sessions_by_project ON sessions (project_id) WHERE project_id IS NOT NULL;
-- DELETE /v1/machines/:id deletes the sessions that the machine publishes.
CREATE INDEX sessions_by_machine ON sessions (account_id, machine_id) WHERE machine_id IS NOT NULL;

CREATE TABLE messages (
    id         TEXT NOT NULL,                        -- never looked up by itself, so no index
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    seq        INTEGER NOT NULL,                     -- 1, 2, 3, … in each session
    local_id   TEXT,                                 -- the sender's own id: the same one is stored once
    content    TEXT NOT NULL,                        -- encrypted
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX messages_by_seq ON messages (session_id, seq);
CREATE UNIQUE INDEX messages_by_local_id ON messages (session_id, local_id) WHERE local_id IS NOT NULL;

-- Machine ids are chosen by the client: two accounts may use the same computer.
CREATE TABLE machines (
    account_id           TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    id                   TEXT NOT NULL,
    metadata             TEXT NOT NULL,
    metadata_version     INTEGER NOT NULL DEFAULT 1,
    daemon_state         TEXT,
    daemon_state_version INTEGER NOT NULL DEFAULT 0,
    data_encryption_key  TEXT,                        -- base64, as it travels
    seq                  INTEGER NOT NULL DEFAULT 0,
    active               INTEGER NOT NULL DEFAULT 0,
    active_at            INTEGER NOT NULL,
    created_at           INTEGER NOT NULL,
    updated_at           INTEGER NOT NULL,
    PRIMARY KEY (account_id, id)
) STRICT;
CREATE INDEX machines_by_activity ON machines (account_id, active_at DESC);
CREATE INDEX machines_silent ON machines (active_at) WHERE active = 1;

-- Machines that the account deleted, so that a daemon can be told that it is no longer wanted.
CREATE TABLE deleted_machines (
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    machine_id TEXT NOT NULL,
    deleted_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, machine_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX deleted_machines_by_age ON deleted_machines (account_id, deleted_at DESC, machine_id);

-- Artifact ids are chosen by the client and unique across accounts (the wire has a 409 for it).
CREATE TABLE artifacts (
    id                  TEXT PRIMARY KEY,
    account_id          TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    session_id          TEXT REFERENCES sessions (id) ON DELETE SET NULL,
    header              BLOB NOT NULL,
    header_version      INTEGER NOT NULL DEFAULT 1,
    body_version        INTEGER NOT NULL DEFAULT 1,
    data_encryption_key BLOB NOT NULL,
    seq                 INTEGER NOT NULL DEFAULT 0,
    created_at          INTEGER NOT NULL,
    updated_at          INTEGER NOT NULL,
    body                BLOB NOT NULL                -- last: a list need not read past it
) STRICT;
CREATE INDEX artifacts_by_change ON artifacts (account_id, updated_at DESC, id DESC);
CREATE INDEX artifacts_by_session ON artifacts (session_id, updated_at DESC) WHERE session_id IS NOT NULL;

CREATE TABLE access_keys (
    account_id   TEXT NOT NULL,
    session_id   TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    machine_id   TEXT NOT NULL,
    data         TEXT NOT NULL,
    data_version INTEGER NOT NULL DEFAULT 1,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    PRIMARY KEY (account_id, machine_id, session_id),
    FOREIGN KEY (account_id, machine_id) REFERENCES machines (account_id, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX access_keys_by_session ON access_keys (session_id);

-- A deleted key stays with value NULL so that its version goes on rising.
CREATE TABLE kv (
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    key        TEXT NOT NULL,
    value      BLOB,
    version    INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, key)
) STRICT;

CREATE TABLE usage_reports (
    id         TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    session_id TEXT REFERENCES sessions (id) ON DELETE CASCADE,
    key        TEXT NOT NULL,
    tokens     TEXT NOT NULL,                        -- JSON {total, …}
    cost       TEXT NOT NULL,                        -- JSON {total, …}
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
-- One report per key and session, and one per key without a session (NULLs would be distinct).
CREATE UNIQUE INDEX usage_reports_by_key ON usage_reports (account_id, coalesce(session_id, ''), key);
CREATE INDEX usage_reports_by_time ON usage_reports (account_id, created_at);
CREATE INDEX usage_reports_by_session ON usage_reports (session_id, created_at);

CREATE TABLE push_tokens (
    id         TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    token      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (account_id, token)
) STRICT;
CREATE INDEX push_tokens_by_age ON push_tokens (account_id, created_at DESC, id DESC);

-- Tokens of openai, anthropic and gemini, sealed with the account's key.
CREATE TABLE vendor_tokens (
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    vendor     TEXT NOT NULL,
    token      BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, vendor)
) STRICT, WITHOUT ROWID;

-- Public files under files/ (avatars of accounts). Attachments and pictures have no rows: the folder names their owner.
CREATE TABLE uploaded_files (
    id         TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    path       TEXT NOT NULL,
    width      INTEGER,
    height     INTEGER,
    thumbhash  TEXT,
    reuse_key  TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (account_id, path)
) STRICT;
CREATE INDEX uploaded_files_by_reuse_key ON uploaded_files (account_id, reuse_key) WHERE reuse_key IS NOT NULL;

-- Two rows per pair: each side sees the pair in its own way.
CREATE TABLE relationships (
    from_id          TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    to_id            TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    status           TEXT NOT NULL CHECK (status IN ('none', 'requested', 'pending', 'friend', 'rejected')),
    accepted_at      INTEGER,
    last_notified_at INTEGER,                        -- of the from side, about this pair
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    PRIMARY KEY (from_id, to_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX relationships_by_other ON relationships (to_id);

CREATE TABLE feed_items (
    id         TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    counter    INTEGER NOT NULL,                     -- from accounts.feed_seq; the cursor is 0-<counter>
    repeat_key TEXT,
    body       TEXT NOT NULL,                        -- JSON {kind, …}
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (account_id, counter)
) STRICT;
CREATE UNIQUE INDEX feed_items_by_repeat_key ON feed_items (account_id, repeat_key) WHERE repeat_key IS NOT NULL;

CREATE TABLE voice_sessions (
    id         TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    room       TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX voice_sessions_by_account ON voice_sessions (account_id, created_at DESC);
