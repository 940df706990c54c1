//! The section `[connections]`.

use crate::config::units;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::{
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};
use vestibule_derive::ConfigSection;

/// `[connections]`: the limits of connections, at the public and at the admin listener. A change applies to new connections.
/// Each limit stops clients that are slow, silent or many from keeping others out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct ConnectionsConfig {
    /// The largest number of open connections of the public listener, against floods of connections. More wait in the
    /// system's queue. It is lowered if the process may not open as many files.
    #[setting(min = 1, max = 1_000_000)]
    pub max_open: NonZeroU32,
    /// The longest time of a TLS handshake, against clients that never finish one.
    #[serde(with = "units::duration")]
    #[setting(min = "100ms", max = "5m")]
    pub handshake_timeout: Duration,
    /// The longest time until the head of a connection's first request, against clients that send it byte by byte, or
    /// nothing at all.
    #[serde(with = "units::duration")]
    #[setting(min = "100ms", max = "5m")]
    pub head_timeout: Duration,
    /// The longest time without a request on an open connection, the head of the next request included, against clients that
    /// hold places and send nothing. Keep it above that of the load balancer in front (AWS's ALB: 60 s), or it sends requests
    /// into connections that are just closing.
    #[serde(with = "units::duration")]
    #[setting(min = "1s", max = "1h")]
    pub idle_timeout: Duration,
    /// The age at which a connection is asked to end, give or take 10 %, against clients that hold a place for ever, and so
    /// that clients spread over new replicas. One of HTTP/2 is cut `server.response_timeout` later, once its requests are finished, or at its next request.
    #[serde(with = "units::duration")]
    #[setting(min = "1s", max = "7d")]
    pub max_age: Duration,
    /// The longest time for which sent bytes may stay unacknowledged, against peers that vanished. Only on Linux.
    #[serde(with = "units::duration")]
    #[setting(min = "1s", max = "15m")]
    pub unacknowledged_timeout: Duration,
    /// The largest head of an HTTP/1 request, against heads that fill the memory. A larger one gets 431.
    #[serde(with = "units::size")]
    #[setting(min = "8 KiB", max = "1 MiB")]
    pub max_head: ByteSize,
    /// The largest number of headers in an HTTP/1 request, against heads of many small ones, each of which costs memory and
    /// time. One more gets 431.
    #[setting(min = 10, max = 1000)]
    pub max_headers: NonZeroU16,
    /// The largest head of an HTTP/2 request, decompressed, against headers that grow when they are decompressed.
    #[serde(with = "units::size")]
    #[setting(min = "4 KiB", max = "1 MiB")]
    pub http2_max_head: ByteSize,
    /// The largest number of requests at a time on an HTTP/2 connection, so that one connection cannot take all places of
    /// `server.max_in_flight`.
    #[setting(min = 1, max = 10_000)]
    pub http2_max_streams: NonZeroU32,
    /// The largest number of HTTP/2 requests that a client reset before they were looked at, against rapid resets.
    #[setting(min = 1, max = 10_000)]
    pub http2_max_pending_resets: NonZeroU16,
    /// The largest number of HTTP/2 requests that were reset because they broke the protocol, against clients that make the
    /// service reset them.
    #[setting(min = 1, max = 10_000)]
    pub http2_max_error_resets: NonZeroU16,
    /// The bytes of one HTTP/2 request's body that may be on the way, against bodies that fill the memory.
    #[serde(with = "units::size")]
    #[setting(min = "16 KiB", max = "16 MiB")]
    pub http2_stream_window: ByteSize,
    /// The bytes of all bodies of an HTTP/2 connection that may be on the way, against many bodies that fill the memory
    /// together.
    #[serde(with = "units::size")]
    #[setting(min = "64 KiB", max = "64 MiB")]
    pub http2_connection_window: ByteSize,
    /// The bytes of one HTTP/2 response that wait to be sent, against clients that do not read.
    #[serde(with = "units::size")]
    #[setting(min = "16 KiB", max = "16 MiB")]
    pub http2_send_buffer: ByteSize,
    /// The time between two HTTP/2 pings, which check that the client is still there.
    #[serde(with = "units::duration")]
    #[setting(min = "1s", max = "1h")]
    pub http2_ping_every: Duration,
    /// The longest time until a ping is answered. After it, the connection ends.
    #[serde(with = "units::duration")]
    #[setting(min = "100ms", max = "5m")]
    pub http2_ping_timeout: Duration,
}

impl Default for ConnectionsConfig {
    fn default() -> Self {
        Self {
            max_open: NonZeroU32::new(10_000).expect("10,000 is not zero"),
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            max_age: Duration::from_secs(60 * 60),
            unacknowledged_timeout: Duration::from_secs(30),
            max_head: ByteSize::kib(64),
            max_headers: NonZeroU16::new(100).expect("100 is not zero"),
            http2_max_head: ByteSize::kib(16),
            http2_max_streams: NonZeroU32::new(100).expect("100 is not zero"),
            http2_max_pending_resets: NonZeroU16::new(20).expect("20 is not zero"),
            http2_max_error_resets: NonZeroU16::new(128).expect("128 is not zero"),
            http2_stream_window: ByteSize::kib(128),
            http2_connection_window: ByteSize::kib(256),
            http2_send_buffer: ByteSize::kib(64),
            http2_ping_every: Duration::from_secs(30),
            http2_ping_timeout: Duration::from_secs(10),
        }
    }
}
