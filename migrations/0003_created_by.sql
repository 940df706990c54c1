-- The subject of the client's certificate, as RFC 4514 writes it; null: clients show none.
ALTER TABLE notes ADD COLUMN created_by text;
