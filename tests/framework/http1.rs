//! HTTP/1 as RFC 9112 and RFC 9110 have it: bytes that a client sends, and the answers to them.
//!
//! Rows marked `hyper` are not as the RFC has it, or at its limit, and hyper leaves no way to change them.

use crate::SERVICE;
use devstack::{DEFAULT_TIMEOUT, RunningService};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// The next request on a connection that goes on. Its answer is 404.
const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// Bytes of a client, and the answer.
struct Case {
    /// The section of RFC 9112, or of RFC 9110 with its number before it, and the subject.
    rule: &'static str,
    sent: String,
    /// The statuses of the answers, without that of the probe.
    answers: &'static [u16],
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// The service answers the next request.
    GoesOn,
    Closes,
}

use End::{Closes, GoesOn};

fn case(rule: &'static str, sent: impl Into<String>, answers: &'static [u16], end: End) -> Case {
    Case { rule, sent: sent.into(), answers, end }
}

/// Returns a case of a GET with more lines in its head.
fn get(rule: &'static str, lines: &str, answers: &'static [u16], end: End) -> Case {
    case(rule, format!("GET /v1/notes HTTP/1.1\r\n{lines}\r\n\r\n"), answers, end)
}

/// Returns a case of a POST with more lines in its head, and a body.
fn post(rule: &'static str, lines: &str, body: &str, answers: &'static [u16], end: End) -> Case {
    let head = "POST /v1/notes HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    case(rule, format!("{head}{lines}\r\n\r\n{body}"), answers, end)
}

fn chunked(rule: &'static str, body: &str, answers: &'static [u16], end: End) -> Case {
    post(rule, "transfer-encoding: chunked", body, answers, end)
}

/// Returns a case of a request line.
fn line(rule: &'static str, line: &str, answers: &'static [u16], end: End) -> Case {
    case(rule, format!("{line}\r\nhost: a\r\n\r\n"), answers, end)
}

const NOTE: &str = "{\"body\": \"abc\"}";

fn hosts() -> Vec<Case> {
    vec![
        get("3.2: no Host", "x-a: b", &[400], Closes),
        get("3.2: two Hosts", "host: a\r\nhost: b", &[400], Closes),
        get("3.2: the same Host twice", "host: a\r\nhost: a", &[400], Closes),
        get("3.2: a blank in Host", "host: a b", &[400], Closes),
        get("3.2: a path in Host", "host: a/b", &[400], Closes),
        get("9110 4.2.4: userinfo in Host", "host: u@a", &[400], Closes),
        get("3.2: two hosts in one Host", "host: a,b", &[400], Closes),
        get("3.2: a port that is no number", "host: a:b", &[400], Closes),
        get("3.2: a port with a sign", "host: a:+80", &[400], Closes),
        get("3.2: a port of more than 16 bits", "host: a:99999999", &[400], Closes),
        get("3.2: two ports", "host: a:80:80", &[400], Closes),
        get("3.2: text after IPv6", "host: [::1]a", &[400], Closes),
        get("3.2: a port", "host: a:80", &[200], GoesOn),
        get("3.2: an empty port", "host: a:", &[200], GoesOn),
        get("3.2: IPv6", "host: [::1]:80", &[200], GoesOn),
        get("3.2: an empty Host, for a target without authority", "host:", &[200], GoesOn),
        case("3.2: HTTP/1.0 needs none", "GET /v1/notes HTTP/1.0\r\n\r\n", &[200], Closes),
    ]
}

fn fields() -> Vec<Case> {
    vec![
        get("5.2: a folded line", "host: a\r\nx-a: b\r\n c", &[400], Closes),
        get("5.1: a blank before the colon", "host: a\r\nx-a : b", &[400], Closes),
        get("2.2: a blank before the first field", " host: a", &[400], Closes),
        get("5: no name", "host: a\r\n: b", &[400], Closes),
        get("5: no colon", "host: a\r\nabc", &[400], Closes),
        get("2.2: a bare CR", "host: a\r\nx-a: b\rc", &[400], Closes),
        get("9110 5.5: NUL in a value", "host: a\r\nx-a: b\0c", &[400], Closes),
        get("9110 5.5: bytes above ASCII", "host: a\r\nx-a: ä", &[200], GoesOn),
        case("2.2: LF alone may end a line (hyper)", "GET /v1/notes HTTP/1.1\nhost: a\n\n", &[200], GoesOn),
        case("2.2: empty lines before a request", "\r\n\r\nGET /v1/notes HTTP/1.1\r\nhost: a\r\n\r\n", &[200], GoesOn),
    ]
}

fn lengths() -> Vec<Case> {
    let smuggled = format!("0\r\n\r\n{}", String::from_utf8_lossy(PROBE));
    let both = "content-length: 5\r\ntransfer-encoding: chunked";
    let both_reversed = "transfer-encoding: chunked\r\ncontent-length: 5";
    vec![
        // It reads the body by Transfer-Encoding, as 6.3 allows, and closes, as 6.1 wants.
        post("6.1: both lengths (hyper)", both, &smuggled, &[400], Closes),
        post("6.1: both lengths, reversed (hyper)", both_reversed, &smuggled, &[400], Closes),
        post("6.3: two Content-Lengths that differ", "content-length: 5\r\ncontent-length: 6", NOTE, &[400], Closes),
        post("6.3: the same Content-Length twice", "content-length: 15\r\ncontent-length: 15", NOTE, &[201], GoesOn),
        post("6.3: a list of lengths", "content-length: 15, 15", NOTE, &[400], Closes),
        post("9110 8.6: a sign", "content-length: +15", NOTE, &[400], Closes),
        post("9110 8.6: a negative length", "content-length: -15", NOTE, &[400], Closes),
        post("9110 8.6: hexadecimal", "content-length: 0xf", NOTE, &[400], Closes),
        post("9110 8.6: no digits", "content-length:", "", &[400], Closes),
        post("9110 8.6: more than 64 bits", "content-length: 99999999999999999999", "", &[400], Closes),
        post("6.3: no length is no body", "x-a: b", "", &[400], GoesOn),
        post("6.1: chunked is not the last coding", "transfer-encoding: chunked, gzip", "0\r\n\r\n", &[400], Closes),
        post("6.1: another coding", "transfer-encoding: gzip, chunked", "0\r\n\r\n", &[501], Closes),
        post("6.1: no coding", "transfer-encoding: identity", "", &[400], Closes),
        post("6.1: chunked twice", "transfer-encoding: chunked, chunked", "0\r\n\r\n", &[501], Closes),
        post(
            "6.1: chunked in two fields",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "0\r\n\r\n",
            &[501],
            Closes,
        ),
        post("6.1: nearly chunked", "transfer-encoding: xchunked", "0\r\n\r\n", &[400], Closes),
        post("6.1: a control character", "transfer-encoding: \x0bchunked", "0\r\n\r\n", &[400], Closes),
        case(
            "6.1: HTTP/1.0 has no codings",
            "POST /v1/notes HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400],
            Closes,
        ),
    ]
}

fn chunks() -> Vec<Case> {
    let whole = format!("f\r\n{NOTE}\r\n");
    vec![
        chunked("7.1: a body in chunks", &format!("{whole}0\r\n\r\n"), &[201], GoesOn),
        chunked("7.1.1: an extension", &format!("f;a=b\r\n{NOTE}\r\n0\r\n\r\n"), &[201], GoesOn),
        chunked("7.1.2: trailers", &format!("{whole}0\r\nx-a: b\r\n\r\n"), &[201], GoesOn),
        chunked("9110 6.5.1: a length as a trailer", &format!("{whole}0\r\ncontent-length: 5\r\n\r\n"), &[201], GoesOn),
        chunked("7.1: no size", "xyz\r\n\r\n", &[400], Closes),
        chunked("7.1: a size with a prefix", &format!("0xf\r\n{NOTE}\r\n0\r\n\r\n"), &[400], Closes),
        chunked("7.1: a size of more than 64 bits", "fffffffffffffffff\r\n", &[400], Closes),
        chunked("7.1: LF alone", &format!("f\n{NOTE}\n0\n\n"), &[400], Closes),
        chunked("7.1: no end of line after the data", &format!("f\r\n{NOTE}0\r\n\r\n"), &[400], Closes),
        chunked("7.1.1: LF in an extension", &format!("f;a\nb\r\n{NOTE}\r\n0\r\n\r\n"), &[400], Closes),
    ]
}

fn request_lines() -> Vec<Case> {
    vec![
        line("3.2.2: a whole URL", "GET http://a/v1/notes HTTP/1.1", &[200], GoesOn),
        // No route is for the whole server.
        line("3.2.4: OPTIONS *", "OPTIONS * HTTP/1.1", &[404], GoesOn),
        line("3.2.4: * with GET", "GET * HTTP/1.1", &[404], GoesOn),
        line("3.2.3: CONNECT", "CONNECT a:80 HTTP/1.1", &[404], GoesOn),
        line("3.2.1: no slash", "GET v1/notes HTTP/1.1", &[400], Closes),
        line("3.2: a fragment, which is dropped (hyper)", "GET /v1/notes#a HTTP/1.1", &[200], GoesOn),
        line("3: a blank in the target", "GET /v1/no tes HTTP/1.1", &[400], Closes),
        line("3: two blanks", "GET  /v1/notes HTTP/1.1", &[400], Closes),
        line("3: tabs", "GET\t/v1/notes\tHTTP/1.1", &[400], Closes),
        line("2.2: a blank first", " GET /v1/notes HTTP/1.1", &[400], Closes),
        line("3.2: NUL", "GET /v1/\0notes HTTP/1.1", &[400], Closes),
        line("3.1: a method that is no token", "G(T /v1/notes HTTP/1.1", &[400], Closes),
        line("9110 9.1: methods have a case", "get /v1/notes HTTP/1.1", &[405], GoesOn),
        line("9110 9.1: an unknown method", "FOO /v1/notes HTTP/1.1", &[405], GoesOn),
        line("9110 9.3.8: TRACE", "TRACE /v1/notes HTTP/1.1", &[405], GoesOn),
        line("3: a line that is too long", &format!("GET /{} HTTP/1.1", "a".repeat(70_000)), &[431], Closes),
        // 9110 2.5 has it read as 1.1.
        line("2.3: HTTP/1.2 (hyper)", "GET /v1/notes HTTP/1.2", &[400], Closes),
        // 9110 15.6.6 has 505.
        line("2.3: HTTP/2.0 (hyper)", "GET /v1/notes HTTP/2.0", &[400], Closes),
        line("2.3: HTTP/9.9 (hyper)", "GET /v1/notes HTTP/9.9", &[400], Closes),
        line("2.3: lower case", "GET /v1/notes http/1.1", &[400], Closes),
        line("2.3: two digits", "GET /v1/notes HTTP/01.1", &[400], Closes),
        line("2.3: none", "GET /v1/notes", &[400], Closes),
    ]
}

fn connections() -> Vec<Case> {
    let two = "GET /v1/notes HTTP/1.1\r\nhost: a\r\n\r\nGET /v1/notes/x HTTP/1.1\r\nhost: a\r\n\r\n";
    let with_body = "GET /v1/notes HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    let unread = "POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    vec![
        case("9.3: HTTP/1.0 closes", "GET /v1/notes HTTP/1.0\r\nhost: a\r\n\r\n", &[200], Closes),
        case(
            "9.3: HTTP/1.0 with keep-alive",
            "GET /v1/notes HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n",
            &[200],
            GoesOn,
        ),
        get("9.6: close", "host: a\r\nconnection: close", &[200], Closes),
        get("9110 7.6.1: Connection names Host", "host: a\r\nconnection: host", &[200], GoesOn),
        case("9.3.2: two requests at once", two, &[200, 400], GoesOn),
        case("9110 9.3.1: a body with GET", with_body, &[200], GoesOn),
        case("9.3: a body that nobody reads", unread, &[404], GoesOn),
        get("9110 7.8: an upgrade that is not taken", "host: a\r\nconnection: upgrade\r\nupgrade: h2c", &[200], GoesOn),
        post("9110 10.1.1: Expect", "expect: 100-continue\r\ncontent-length: 15", NOTE, &[100, 201], GoesOn),
        post("9110 10.1.1: another expectation", "expect: b\r\ncontent-length: 15", NOTE, &[201], GoesOn),
    ]
}

/// Sends the bytes of a case, and a probe. Returns the statuses of the answers, and whether one was to the probe.
async fn answers_to(running: &RunningService<'_>, sent: &str) -> (Vec<u16>, End) {
    let mut stream = TcpStream::connect(&running.at.public).await.expect("it listens");
    // The service may close before it has read everything, and the rest is lost then.
    let _ = stream.write_all(&[sent.as_bytes(), PROBE].concat()).await;
    let mut received = Vec::new();
    let _ = timeout(DEFAULT_TIMEOUT, stream.read_to_end(&mut received)).await.expect("the connection ends");
    let received = String::from_utf8_lossy(&received);
    let mut statuses: Vec<u16> =
        received.split("HTTP/1.").skip(1).map(|answer| answer[2..5].parse().expect("a status")).collect();
    let is_probe_answered = received.contains("there is nothing at this path") && statuses.last() == Some(&404);
    if !is_probe_answered {
        return (statuses, Closes);
    }
    statuses.pop();
    (statuses, GoesOn)
}

#[tokio::test]
async fn requests_are_read_as_rfc_9112_has_it_and_what_is_ambiguous_is_refused() {
    let tenant = SERVICE.migrated("http1").await;
    let running = SERVICE.start(&tenant).await;
    let mut wrong = Vec::new();
    for Case { rule, sent, answers, end } in
        [hosts(), fields(), lengths(), chunks(), request_lines(), connections()].into_iter().flatten()
    {
        let seen = answers_to(&running, &sent).await;
        if seen != (answers.to_vec(), end) {
            wrong.push(format!("{rule}: {seen:?}, not {answers:?} {end:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_head_that_only_we_refuse_gets_a_problem_and_is_counted_as_malformed() {
    let tenant = SERVICE.migrated("refused").await;
    let running = SERVICE.start(&tenant).await;
    let malformed = "vestibule_connections_ended_total{listener=\"public\",reason=\"malformed\"}";
    for (number, sent) in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"].into_iter().enumerate() {
        let mut stream = TcpStream::connect(&running.at.public).await.expect("it listens");
        stream.write_all(sent.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        timeout(DEFAULT_TIMEOUT, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
        assert_eq!(answer.contains("application/problem+json"), number == 0, "hyper's own has no body: {answer}");
        devstack::eventually("the count", async || running.metric(malformed).await == (number + 1) as f64).await;
    }
}
