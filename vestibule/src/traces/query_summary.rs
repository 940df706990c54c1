//! The summary of a statement: what it does, and on which table. It never has a value.

use std::fmt;

/// The operations that are named. Any other statement is an `SQL`.
const OPERATIONS: [&str; 21] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "MERGE",
    "WITH",
    "VALUES",
    "TABLE",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT",
    "RELEASE",
    "SET",
    "COPY",
    "CALL",
    "LOCK",
    "NOTIFY",
    "LISTEN",
    "REFRESH",
    "TRUNCATE",
];

/// The words before the name of a table.
const BEFORE_TABLE: [&str; 3] = ["FROM", "INTO", "UPDATE"];

/// The longest name of a table, in bytes: that of PostgreSQL, with a schema.
const LONGEST_TABLE: usize = 127;

/// The summary of a statement, such as `SELECT orders`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QuerySummary {
    pub(super) operation: &'static str,
    pub(super) table: Option<String>,
}

impl QuerySummary {
    /// Reads the first words of a statement.
    ///
    /// Reads to the first quote or comment and no further: what comes then may be a value.
    pub(super) fn of(whole: &str) -> Self {
        // Whole words only: the last one may go on in a quote.
        let sql = match end_of_words(whole) {
            end if end == whole.len() => whole,
            end => whole[..end].trim_end_matches(is_of_word),
        };
        let mut words = sql.split(|c: char| !is_of_word(c)).filter(|word| !word.is_empty());
        let first = words.next().unwrap_or_default();
        let Some(operation) = OPERATIONS.into_iter().find(|known| first.eq_ignore_ascii_case(known)) else {
            return Self { operation: "SQL", table: None };
        };
        let is_before_table = |word: &str| BEFORE_TABLE.iter().any(|before| word.eq_ignore_ascii_case(before));
        let word =
            if is_before_table(first) { words.next() } else { words.skip_while(|word| !is_before_table(word)).nth(1) };
        let table = word.filter(|word| is_table(word, sql)).map(str::to_owned);
        Self { operation, table }
    }
}

/// Returns the place of the first quote or comment. A `$` begins a quote too, if it is not that of a parameter.
fn end_of_words(sql: &str) -> usize {
    let mut rest = sql.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let next = rest.peek().map_or(' ', |(_, next)| *next);
        let is_end = match c {
            '\'' | '"' | '`' => true,
            '$' => !next.is_ascii_digit(),
            '-' => next == '-',
            '/' => next == '*',
            _ => false,
        };
        if is_end {
            return at;
        }
    }
    sql.len()
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '$'
}

/// Returns `true` if a word of a statement is the name of a table: not the first word of a subquery.
fn is_table(word: &str, sql: &str) -> bool {
    let at = word.as_ptr() as usize - sql.as_ptr() as usize;
    word.len() <= LONGEST_TABLE
        && word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !sql[..at].trim_end().ends_with('(')
}

impl fmt::Display for QuerySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.table {
            Some(table) => write!(f, "{} {table}", self.operation),
            None => f.write_str(self.operation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_named_after_what_it_does_and_its_table() {
        for (sql, summary) in [
            ("SELECT id, body FROM orders WHERE id = $1", "SELECT orders"),
            ("\n  select count(*)\nfrom app.orders;", "SELECT app.orders"),
            ("INSERT INTO orders (id, body) VALUES ($1, $2)", "INSERT orders"),
            ("UPDATE orders SET body = $1", "UPDATE orders"),
            ("DELETE FROM orders", "DELETE orders"),
            ("SELECT * FROM (SELECT 1) AS one", "SELECT"),
            ("COMMIT", "COMMIT"),
            ("SELECT 1", "SELECT"),
            ("explain analyze select 1", "SQL"),
            ("", "SQL"),
        ] {
            assert_eq!(QuerySummary::of(sql).to_string(), summary, "{sql}");
        }
    }

    #[test]
    fn no_value_of_a_statement_is_in_its_name() {
        for sql in [
            "SELECT 'hunter2'",
            "SELECT * FROM 'hunter2'",
            "SELECT 'as from hunter2'",
            "SELECT /* from hunter2 */ 1",
            "SELECT 1 -- from hunter2",
            "SELECT $$ from hunter2 $$",
            "SELECT $tag$ from hunter2 $tag$",
            "SELECT E'\\' from hunter2 '",
            "SELECT \" from hunter2\"",
            "hunter2",
            "SELECT 1 FROM U&'hunter2'",
            "SELECT 1 FROM hunter2'",
        ] {
            let summary = QuerySummary::of(sql).to_string();
            assert!(!summary.contains("hunter2"), "{sql}: {summary}");
        }
    }
}
