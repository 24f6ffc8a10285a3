-- Made from schema.sql by `make schema`, which overwrites it. Run with a search_path that begins with the schema
-- happy_light. Text compares by bytes and is lowered as ASCII, as in SQLite; booleans are the integers 0 and 1.

-- One row per thing the server has to remember about itself (for instance a check value of the secret).
CREATE TABLE meta (
    key   text COLLATE "C" PRIMARY KEY,
    value text COLLATE "C" NOT NULL
);

-- Who may make an account although registration is closed; goes when the account is made.
CREATE TABLE allowed_keys (
    fingerprint text COLLATE "C" PRIMARY KEY,        -- of the account's public key
    created_at  bigint NOT NULL
);

CREATE TABLE github_users (
    id         text COLLATE "C" PRIMARY KEY,         -- GitHub's own id
    profile    text COLLATE "C" NOT NULL,            -- JSON as GitHub answered
    token      bytea,                                -- sealed with the account's key
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);

CREATE TABLE accounts (
    id               text COLLATE "C" PRIMARY KEY,
    public_key       text COLLATE "C" NOT NULL UNIQUE, -- Ed25519, upper-case hex
    seq              bigint NOT NULL DEFAULT 0,      -- of the last update sent; no gaps, never back
    feed_seq         bigint NOT NULL DEFAULT 0,      -- of the last feed item
    settings         text COLLATE "C",
    settings_version bigint NOT NULL DEFAULT 0,
    first_name       text COLLATE "C",
    last_name        text COLLATE "C",
    username         text COLLATE "C" UNIQUE,
    avatar           text COLLATE "C",               -- JSON {path, width, height, thumbhash}
    github_user_id   text COLLATE "C" UNIQUE REFERENCES github_users (id) ON DELETE SET NULL,
    tokens_since     bigint NOT NULL DEFAULT 0,      -- s; for tokens that carry no generation: older ones are invalid
    created_at       bigint NOT NULL,
    updated_at       bigint NOT NULL,
    token_generation bigint NOT NULL DEFAULT 0,      -- how often it was signed out everywhere; tokens carry it
    label            text COLLATE "C",               -- what the operator calls it
    device_sign_outs bigint NOT NULL DEFAULT 0       -- how often one of its devices was signed out
);

-- A user search is a prefix search without regard to case.
CREATE INDEX accounts_by_username ON accounts (lower(username));

-- A terminal that asks to be let in (kind 'terminal'), or a second device ('account').
CREATE TABLE auth_requests (
    id          text COLLATE "C" PRIMARY KEY,
    kind        text COLLATE "C" NOT NULL CHECK (kind IN ('terminal', 'account')),
    public_key  text COLLATE "C" NOT NULL,           -- X25519, upper-case hex
    supports_v2 bigint NOT NULL DEFAULT 0,
    response    text COLLATE "C",                    -- sealed by the approving device
    account_id  text COLLATE "C" REFERENCES accounts (id) ON DELETE CASCADE,
    picked_up_at bigint,                             -- first time the token was handed out
    created_at  bigint NOT NULL,
    updated_at  bigint NOT NULL,
    approved_by text COLLATE "C",                    -- the device that approved it
    device_id   text COLLATE "C",                    -- the device that picked it up: the jti of its token
    UNIQUE (kind, public_key)
);

CREATE INDEX auth_requests_by_age ON auth_requests (created_at);

CREATE INDEX auth_requests_by_pick_up ON auth_requests (picked_up_at) WHERE picked_up_at IS NOT NULL;

CREATE INDEX auth_requests_by_account ON auth_requests (account_id);

-- Who is signed in: a token is valid while the device that its jti names is here. 'unknown' is the device of all tokens
-- of the account that other servers and older versions made.
CREATE TABLE devices (
    account_id   text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    id           text COLLATE "C" NOT NULL,
    kind         text COLLATE "C" NOT NULL CHECK (kind IN ('signature', 'terminal', 'link', 'import', 'older', 'secret')),
    approved_by  text COLLATE "C",                   -- the device that approved it; may be gone
    client       text COLLATE "C",                   -- name and version of its program
    address      text COLLATE "C",                   -- where it signed in from
    created_at   bigint NOT NULL,
    last_seen_at bigint NOT NULL,                    -- up to 10 minutes behind
    PRIMARY KEY (account_id, id)
);

-- Sign-in challenges that were used, until they are too old to be used again.
CREATE TABLE used_challenges (
    challenge  bytea PRIMARY KEY,
    expires_at bigint NOT NULL
);

CREATE INDEX used_challenges_by_age ON used_challenges (expires_at);

-- A project groups sessions.
CREATE TABLE projects (
    id                  text COLLATE "C" PRIMARY KEY,
    account_id          text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    external_id         text COLLATE "C" NOT NULL,   -- the client's own name for it
    metadata            text COLLATE "C" NOT NULL,
    metadata_version    bigint NOT NULL DEFAULT 1,
    data_encryption_key text COLLATE "C",            -- base64, as it travels
    avatar_ref          text COLLATE "C",            -- of the active picture; NULL if there is none
    avatar_preview      text COLLATE "C",            -- encrypted; NULL if there is no active picture
    avatar_version      bigint NOT NULL DEFAULT 0,   -- rises with every change of the picture, removals too
    seq                 bigint NOT NULL DEFAULT 0,   -- rises with every change of metadata or picture
    created_at          bigint NOT NULL,
    updated_at          bigint NOT NULL,
    UNIQUE (account_id, external_id)
);

CREATE INDEX projects_by_change ON projects (account_id, updated_at DESC, id);

CREATE TABLE sessions (
    id                  text COLLATE "C" PRIMARY KEY,
    account_id          text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    tag                 text COLLATE "C" NOT NULL,
    seq                 bigint NOT NULL DEFAULT 0,   -- of the newest message; messages have 1..seq
    metadata            text COLLATE "C" NOT NULL,
    metadata_version    bigint NOT NULL DEFAULT 0,
    agent_state         text COLLATE "C",
    agent_state_version bigint NOT NULL DEFAULT 0,
    data_encryption_key text COLLATE "C",            -- base64, as it travels
    project_id          text COLLATE "C" REFERENCES projects (id) ON DELETE SET NULL,
    machine_id          text COLLATE "C",            -- the machine that publishes it; need not be registered
    avatar_ref          text COLLATE "C",            -- as in projects
    avatar_preview      text COLLATE "C",
    avatar_version      bigint NOT NULL DEFAULT 0,
    active              bigint NOT NULL DEFAULT 1,
    active_at           bigint NOT NULL,
    created_at          bigint NOT NULL,
    updated_at          bigint NOT NULL,
    UNIQUE (account_id, tag)
);

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
    id         text COLLATE "C" NOT NULL,            -- never looked up by itself, so no index
    session_id text COLLATE "C" NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    seq        bigint NOT NULL,                      -- 1, 2, 3, … in each session
    local_id   text COLLATE "C",                     -- the sender's own id: the same one is stored once
    content    text COLLATE "C" NOT NULL,            -- encrypted
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);

CREATE UNIQUE INDEX messages_by_seq ON messages (session_id, seq);

CREATE UNIQUE INDEX messages_by_local_id ON messages (session_id, local_id) WHERE local_id IS NOT NULL;

-- Machine ids are chosen by the client: two accounts may use the same computer.
CREATE TABLE machines (
    account_id           text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    id                   text COLLATE "C" NOT NULL,
    metadata             text COLLATE "C" NOT NULL,
    metadata_version     bigint NOT NULL DEFAULT 1,
    daemon_state         text COLLATE "C",
    daemon_state_version bigint NOT NULL DEFAULT 0,
    data_encryption_key  text COLLATE "C",            -- base64, as it travels
    seq                  bigint NOT NULL DEFAULT 0,
    active               bigint NOT NULL DEFAULT 0,
    active_at            bigint NOT NULL,
    created_at           bigint NOT NULL,
    updated_at           bigint NOT NULL,
    PRIMARY KEY (account_id, id)
);

CREATE INDEX machines_by_activity ON machines (account_id, active_at DESC);

CREATE INDEX machines_silent ON machines (active_at) WHERE active = 1;

-- Machines that the account deleted, so that a daemon can be told that it is no longer wanted.
CREATE TABLE deleted_machines (
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    machine_id text COLLATE "C" NOT NULL,
    deleted_at bigint NOT NULL,
    PRIMARY KEY (account_id, machine_id)
);

CREATE INDEX deleted_machines_by_age ON deleted_machines (account_id, deleted_at DESC, machine_id);

-- Artifact ids are chosen by the client and unique across accounts (the wire has a 409 for it).
CREATE TABLE artifacts (
    id                  text COLLATE "C" PRIMARY KEY,
    account_id          text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    session_id          text COLLATE "C" REFERENCES sessions (id) ON DELETE SET NULL,
    header              bytea NOT NULL,
    header_version      bigint NOT NULL DEFAULT 1,
    body_version        bigint NOT NULL DEFAULT 1,
    data_encryption_key bytea NOT NULL,
    seq                 bigint NOT NULL DEFAULT 0,
    created_at          bigint NOT NULL,
    updated_at          bigint NOT NULL,
    body                bytea NOT NULL               -- last: a list need not read past it
);

CREATE INDEX artifacts_by_change ON artifacts (account_id, updated_at DESC, id DESC);

CREATE INDEX artifacts_by_session ON artifacts (session_id, updated_at DESC) WHERE session_id IS NOT NULL;

CREATE TABLE access_keys (
    account_id   text COLLATE "C" NOT NULL,
    session_id   text COLLATE "C" NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    machine_id   text COLLATE "C" NOT NULL,
    data         text COLLATE "C" NOT NULL,
    data_version bigint NOT NULL DEFAULT 1,
    created_at   bigint NOT NULL,
    updated_at   bigint NOT NULL,
    PRIMARY KEY (account_id, machine_id, session_id),
    FOREIGN KEY (account_id, machine_id) REFERENCES machines (account_id, id) ON DELETE CASCADE
);

CREATE INDEX access_keys_by_session ON access_keys (session_id);

-- A deleted key stays with value NULL so that its version goes on rising.
CREATE TABLE kv (
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    key        text COLLATE "C" NOT NULL,
    value      bytea,
    version    bigint NOT NULL DEFAULT 0,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, key)
);

CREATE TABLE usage_reports (
    id         text COLLATE "C" PRIMARY KEY,
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    session_id text COLLATE "C" REFERENCES sessions (id) ON DELETE CASCADE,
    key        text COLLATE "C" NOT NULL,
    tokens     text COLLATE "C" NOT NULL,            -- JSON {total, …}
    cost       text COLLATE "C" NOT NULL,            -- JSON {total, …}
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);

-- One report per key and session, and one per key without a session (NULLs would be distinct).
CREATE UNIQUE INDEX usage_reports_by_key ON usage_reports (account_id, coalesce(session_id, ''), key);

CREATE INDEX usage_reports_by_time ON usage_reports (account_id, created_at);

CREATE INDEX usage_reports_by_session ON usage_reports (session_id, created_at);

CREATE TABLE push_tokens (
    id         text COLLATE "C" PRIMARY KEY,
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    token      text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    UNIQUE (account_id, token)
);

CREATE INDEX push_tokens_by_age ON push_tokens (account_id, created_at DESC, id DESC);

-- Tokens of openai, anthropic and gemini, sealed with the account's key.
CREATE TABLE vendor_tokens (
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    vendor     text COLLATE "C" NOT NULL,
    token      bytea NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, vendor)
);

-- Public files under files/ (avatars of accounts). Attachments and pictures have no rows: the folder names their owner.
CREATE TABLE uploaded_files (
    id         text COLLATE "C" PRIMARY KEY,
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    path       text COLLATE "C" NOT NULL,
    width      bigint,
    height     bigint,
    thumbhash  text COLLATE "C",
    reuse_key  text COLLATE "C",
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    UNIQUE (account_id, path)
);

CREATE INDEX uploaded_files_by_reuse_key ON uploaded_files (account_id, reuse_key) WHERE reuse_key IS NOT NULL;

-- Two rows per pair: each side sees the pair in its own way.
CREATE TABLE relationships (
    from_id          text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    to_id            text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    status           text COLLATE "C" NOT NULL CHECK (status IN ('none', 'requested', 'pending', 'friend', 'rejected')),
    accepted_at      bigint,
    last_notified_at bigint,                         -- of the from side, about this pair
    created_at       bigint NOT NULL,
    updated_at       bigint NOT NULL,
    PRIMARY KEY (from_id, to_id)
);

CREATE INDEX relationships_by_other ON relationships (to_id);

CREATE TABLE feed_items (
    id         text COLLATE "C" PRIMARY KEY,
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    counter    bigint NOT NULL,                      -- from accounts.feed_seq; the cursor is 0-<counter>
    repeat_key text COLLATE "C",
    body       text COLLATE "C" NOT NULL,            -- JSON {kind, …}
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    UNIQUE (account_id, counter)
);

CREATE UNIQUE INDEX feed_items_by_repeat_key ON feed_items (account_id, repeat_key) WHERE repeat_key IS NOT NULL;

CREATE TABLE voice_sessions (
    id         text COLLATE "C" PRIMARY KEY,
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    room       text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL
);

CREATE INDEX voice_sessions_by_account ON voice_sessions (account_id, created_at DESC);

-- Updates that were published, in the transaction that made them, for processes that missed the hint and for clients
-- that come back. No reference to accounts: it would cost every write a lookup, and old rows are deleted by time.
CREATE TABLE updates (
    account_id text COLLATE "C" NOT NULL,
    seq        bigint NOT NULL,                      -- the account's; no gaps
    audience   text COLLATE "C" NOT NULL,            -- who hears it
    skip       text COLLATE "C",                     -- id of the socket that caused it and does not hear it
    frame      bytea NOT NULL,                       -- JSON, as it is sent
    created_at bigint NOT NULL,
    PRIMARY KEY (account_id, seq)
);
CREATE INDEX updates_by_age ON updates (created_at);

-- The number of the last group of writes that each process has committed: whether a commit that was cut off took place.
CREATE TABLE writers (
    id           text COLLATE "C" PRIMARY KEY,
    group_number bigint NOT NULL,
    written_at   bigint NOT NULL                     -- rows of processes that are long gone are deleted
) WITH (fillfactor = 50);

-- What is encrypted does not become smaller; so PostgreSQL need not try.
ALTER TABLE messages ALTER COLUMN content SET STORAGE EXTERNAL;
ALTER TABLE updates ALTER COLUMN frame SET STORAGE EXTERNAL;
