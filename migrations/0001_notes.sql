-- Ids are UUIDv7: their order is the order of creation, so the primary key serves the list.
CREATE TABLE notes (
    id         uuid        PRIMARY KEY,
    body       text        NOT NULL CHECK (body <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);
