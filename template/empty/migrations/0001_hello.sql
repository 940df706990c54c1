-- What GET /v1/hello says.
CREATE TABLE greetings (
    language text PRIMARY KEY,
    greeting text NOT NULL
);

INSERT INTO greetings (language, greeting) VALUES ('en', 'Hello'), ('fr', 'Bonjour');
