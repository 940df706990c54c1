//! The phases of the attack: in each, clients of one kind open one connection after the other.

use super::{
    http1::{BigPage, Socket},
    http2::{self, PREFACE},
};
use crate::support::{time_waits::let_time_pass, tls_client::TlsClient};
use std::time::Duration;
use tokio::task::JoinSet;

/// The pause of a client that trickles.
const PAUSE: Duration = Duration::from_millis(300);

/// Clients of one kind.
pub(super) struct Phase {
    pub(super) name: &'static str,
    /// The number of clients. Each has one connection at a time.
    pub(super) clients: usize,
    /// The bytes that a client sends first.
    begins: fn() -> Vec<u8>,
    then: Then,
    /// The reasons for which the service ends these connections.
    pub(super) ends: &'static [&'static str],
}

/// The behaviour of a client after its first bytes.
#[derive(Clone, Copy)]
enum Then {
    /// Sends nothing more, and reads.
    Waits,
    /// Sends these bytes again and again, with a pause.
    Trickles(&'static [u8]),
    /// Sends frames without a pause. The number of the frame is the argument.
    Floods(fn(u32) -> Vec<u8>),
    /// Closes its half of the connection, and never reads.
    HalfCloses,
    /// Reads nothing, into a small buffer.
    NeverReads,
    /// Reads a byte a second, into a small buffer.
    ReadsSlowly,
    /// Makes room for a byte a second, over HTTP/2.
    OpensWindowSlowly,
}

impl Phase {
    /// Starts the clients. They end when the set is dropped.
    pub(super) fn start(&self, address: &str, tls: Option<&TlsClient>) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for _ in 0..self.clients {
            let (address, tls, begins, then) = (address.to_owned(), tls.cloned(), self.begins, self.then);
            clients.spawn(async move {
                loop {
                    attack(&address, tls.as_ref(), &begins(), then).await;
                }
            });
        }
        clients
    }
}

/// Attacks with one connection, until the service ends it.
async fn attack(address: &str, tls: Option<&TlsClient>, begins: &[u8], then: Then) {
    let has_small_buffer = matches!(then, Then::NeverReads | Then::ReadsSlowly);
    let Some(mut socket) = Socket::open(address, tls, has_small_buffer).await else { return };
    if !socket.write(begins).await {
        return;
    }
    match then {
        Then::Waits => socket.read_to_end().await,
        Then::Trickles(bytes) => {
            while socket.write(bytes).await {
                let_time_pass("the client is slow", PAUSE).await;
            }
        }
        Then::Floods(frame) => socket.flood(u32::MAX, frame).await,
        Then::HalfCloses => socket.half_close().await,
        Then::NeverReads => socket.ended().await,
        Then::ReadsSlowly => while socket.read_one_byte_a_second().await {},
        Then::OpensWindowSlowly => {
            while socket.write(&http2::window_of_a_byte()).await {
                let_time_pass("the client makes room for a byte a second", Duration::from_secs(1)).await;
            }
        }
    }
}

/// A part of the big page that is larger than the window of a stream.
const TWO_NOTES: &str = "/v1/notes?limit=2";

fn big_page() -> Vec<u8> {
    BigPage::request().into_bytes()
}

/// The phase in which clients let the service send nothing, with or without TLS.
pub(super) const ZERO_WINDOW: Phase = Phase {
    name: "zero window",
    clients: 4,
    begins: || [http2::without_window(), (0..100).flat_map(http2::request).collect()].concat(),
    then: Then::Waits,
    ends: &["stalled"],
};

/// The phases at a listener without TLS.
pub(super) const PLAIN: [Phase; 13] = [
    ZERO_WINDOW,
    Phase {
        name: "slowloris in the head",
        clients: 100,
        begins: || b"GET /v1/notes HTTP/1.1\r\nhost: a\r\n".into(),
        then: Then::Trickles(b"x-a: b\r\n"),
        ends: &["head_timeout"],
    },
    Phase {
        name: "slowloris in the body",
        clients: 100,
        begins: || {
            b"POST /v1/notes HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"
                .into()
        },
        then: Then::Trickles(b" "),
        ends: &["closed", "reset"],
    },
    Phase {
        name: "slowloris in the HTTP/2 preface",
        clients: 100,
        begins: || PREFACE[..3].into(),
        then: Then::Waits,
        ends: &["head_timeout"],
    },
    Phase {
        name: "an HTTP/2 connection without a request",
        clients: 100,
        begins: || PREFACE.into(),
        then: Then::Waits,
        ends: &["head_timeout"],
    },
    Phase {
        name: "rapid reset",
        clients: 4,
        begins: || PREFACE.into(),
        then: Then::Floods(http2::reset_request),
        ends: &["protocol_error", "reset"],
    },
    Phase {
        name: "CONTINUATION flood",
        clients: 4,
        begins: || PREFACE.into(),
        then: Then::Floods(http2::endless_head),
        ends: &["protocol_error", "reset"],
    },
    Phase {
        name: "header bomb, HTTP/1",
        clients: 20,
        begins: || [b"GET /v1/notes HTTP/1.1\r\nhost: a\r\nx-a: ".as_slice(), &[b'b'; 100 * 1024]].concat(),
        then: Then::Waits,
        ends: &["head_too_large"],
    },
    Phase {
        name: "header bomb, HPACK",
        clients: 4,
        begins: || PREFACE.into(),
        then: Then::Floods(http2::compressed_bomb),
        ends: &["protocol_error", "reset"],
    },
    Phase {
        name: "half-open sockets, in the head",
        clients: 100,
        begins: || b"GET /v1/notes HTTP/1.1\r\nhost: a\r\n".into(),
        then: Then::HalfCloses,
        ends: &["closed", "reset"],
    },
    Phase {
        name: "silence after a request and half a head",
        clients: 100,
        begins: || b"GET /v1/notes HTTP/1.1\r\nhost: a\r\n\r\nGET /v1/notes HTTP/1.1\r\nhost".into(),
        then: Then::Waits,
        ends: &["idle"],
    },
    Phase {
        name: "silence after an HTTP/2 request",
        clients: 100,
        begins: || [PREFACE, &http2::request(0)].concat(),
        then: Then::Waits,
        ends: &["idle"],
    },
    Phase { name: "flood of connections", clients: 400, begins: Vec::new, then: Then::Waits, ends: &["shortage"] },
];

/// The phases in which clients do not read the big page, with or without TLS.
pub(super) const UNREAD: [Phase; 5] = [
    Phase {
        name: "clients that stop reading, HTTP/2",
        clients: 4,
        begins: || [PREFACE, &http2::request_of(0, TWO_NOTES)].concat(),
        then: Then::Waits,
        ends: &["stalled"],
    },
    Phase {
        name: "slow readers, HTTP/2",
        clients: 4,
        begins: || [http2::without_window(), http2::request_of(0, TWO_NOTES)].concat(),
        then: Then::OpensWindowSlowly,
        ends: &["stalled", "response_timeout"],
    },
    Phase {
        name: "half-open sockets, in the response",
        clients: 4,
        begins: big_page,
        then: Then::HalfCloses,
        ends: &["stalled", "reset", "response_timeout"],
    },
    Phase {
        name: "clients that stop reading",
        clients: 4,
        begins: big_page,
        then: Then::NeverReads,
        ends: &["stalled"],
    },
    Phase {
        name: "slow readers",
        clients: 4,
        begins: big_page,
        then: Then::ReadsSlowly,
        ends: &["stalled", "response_timeout"],
    },
];

/// The phases in which clients do not finish the handshake of TLS.
pub(super) const HANDSHAKE: [Phase; 2] = [
    Phase {
        name: "silence in the TLS handshake",
        clients: 100,
        begins: Vec::new,
        then: Then::Waits,
        ends: &["handshake_timeout"],
    },
    Phase {
        name: "slowloris in the TLS handshake",
        clients: 100,
        begins: || b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".into(),
        then: Then::Trickles(b"a"),
        ends: &["handshake_timeout"],
    },
];
