//! The reasons for which connections end.

use std::{error::Error, io};

/// The reason for which a connection ended: a label of `vestibule_connections_ended_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndReason {
    Closed,
    HandshakeFailed,
    HandshakeTimeout,
    HeadTimeout,
    HeadTooLarge,
    Malformed,
    Idle,
    MaxAge,
    AuthorityChanged,
    PingTimeout,
    ProtocolError,
    Reset,
    ResponseFailed,
    ResponseTimeout,
    Stalled,
    Shortage,
    Stopping,
    Upgraded,
}

impl EndReason {
    /// All reasons, so that each series is there from the start.
    pub(super) const ALL: [Self; 18] = [
        Self::Closed,
        Self::HandshakeFailed,
        Self::HandshakeTimeout,
        Self::HeadTimeout,
        Self::HeadTooLarge,
        Self::Malformed,
        Self::Idle,
        Self::MaxAge,
        Self::AuthorityChanged,
        Self::PingTimeout,
        Self::ProtocolError,
        Self::Reset,
        Self::ResponseFailed,
        Self::ResponseTimeout,
        Self::Stalled,
        Self::Shortage,
        Self::Stopping,
        Self::Upgraded,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HeadTimeout => "head_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::Malformed => "malformed",
            Self::Idle => "idle",
            Self::MaxAge => "max_age",
            Self::AuthorityChanged => "authority_changed",
            Self::PingTimeout => "ping_timeout",
            Self::ProtocolError => "protocol_error",
            Self::Reset => "reset",
            Self::ResponseFailed => "response_failed",
            Self::ResponseTimeout => "response_timeout",
            Self::Stalled => "stalled",
            Self::Shortage => "shortage",
            Self::Stopping => "stopping",
            Self::Upgraded => "upgraded",
        }
    }

    /// Returns the reason of a connection whose HTTP ended by itself.
    pub(super) fn of(result: &Result<(), Box<dyn Error + Send + Sync>>) -> Self {
        let Err(error) = result else { return Self::Closed };
        let Some(error) = error.downcast_ref::<hyper::Error>() else { return Self::Reset };
        if error.is_user() {
            // It may be an error of I/O, too.
            Self::ResponseFailed
        } else if error.is_parse_too_large() {
            Self::HeadTooLarge
        } else if error.is_parse() {
            Self::Malformed
        } else if error.is_timeout() {
            Self::PingTimeout
        } else if error.is_incomplete_message() || has_io_error(error) {
            Self::Reset
        } else {
            Self::ProtocolError
        }
    }
}

fn has_io_error(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<io::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}
