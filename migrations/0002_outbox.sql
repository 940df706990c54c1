-- Events that the webhook has not taken yet: written with the note, deleted when they are delivered.
CREATE TABLE outbox (
    -- The order of a note's events: whoever changes the note holds its row until the event is written.
    position     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           uuid        NOT NULL UNIQUE,
    note_id      uuid        NOT NULL,
    payload      text        NOT NULL,
    traceparent  text,
    tracestate   text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    -- When it may be claimed: at once, after a pause, or when the claim of a process that died has run out.
    due_at       timestamptz NOT NULL DEFAULT now(),
    attempts     integer     NOT NULL DEFAULT 0,
    -- Those whose answer blamed the message.
    blamed       integer     NOT NULL DEFAULT 0,
    -- Of whoever delivers it now.
    claim        uuid,
    last_error   text,
    -- Given up. To try it again:
    -- UPDATE outbox SET set_aside_at = NULL, attempts = 0, blamed = 0, due_at = now() WHERE id = …
    set_aside_at timestamptz
);

CREATE INDEX outbox_due ON outbox (due_at) WHERE set_aside_at IS NULL;
CREATE INDEX outbox_of_note ON outbox (note_id, position) WHERE set_aside_at IS NULL;
