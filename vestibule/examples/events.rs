//! A service with responses that may last: server-sent events, and a connection that goes on with a protocol of its own, as a
//! WebSocket does.
//!
//! Both hear if the generation that they use is replaced, and if the process stops.

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, process::ExitCode, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vestibule::{
    Application, Build, BuildError, Credential, LongLived, LongLivedEvent, OpenApiRouter, Package, SecretSet,
    credentials::ApiKey,
};

/// The credentials.
#[derive(SecretSet)]
struct Secrets {
    /// A key that the events could need.
    first: Credential<ApiKey>,
}

/// The service.
struct Events;

impl Application for Events {
    const PACKAGE: Package = Package::new("events", "0.1.0");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let _ = &cx.secrets.first;
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().route("/events", get(events)).route("/upgrade", get(upgrade))
    }
}

/// Sends an event each second. Ends when another generation is in service: the client connects again, and gets that one.
async fn events(long_lived: LongLived) -> Response {
    let events = stream::unfold(Some(long_lived.clone()), async |long_lived| {
        let mut long_lived = long_lived?;
        tokio::select! {
            event = long_lived.next() => Some((as_event(event), None)),
            () = tokio::time::sleep(Duration::from_secs(1)) => Some((data("tick"), Some(long_lived))),
        }
    });
    long_lived.respond(([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)))
}

fn as_event(event: LongLivedEvent) -> Result<Bytes, Infallible> {
    data(name(event))
}

fn data(name: &str) -> Result<Bytes, Infallible> {
    Ok(format!("data: {name}\n\n").into())
}

fn name(event: LongLivedEvent) -> &'static str {
    match event {
        LongLivedEvent::Replaced => "replaced",
        LongLivedEvent::Stopping => "stopping",
    }
}

/// Goes on with a protocol of its own: a line per event. Ends when the client leaves, or when the process stops.
async fn upgrade(
    State(service): State<Arc<Events>>,
    mut long_lived: LongLived,
    mut request: Request,
) -> impl IntoResponse {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // A service of more use would work with its credentials here.
        let _service = service;
        let Ok(upgraded) = upgrade.await else { return };
        let mut stream = TokioIo::new(upgraded);
        let mut ignored = [0; 1024];
        loop {
            let event = tokio::select! {
                event = long_lived.next() => event,
                // Only a read shows that the client has left. Without one, the task would keep its place.
                read = stream.read(&mut ignored) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(_) => continue,
                },
            };
            let line = format!("{}\n", name(event));
            if stream.write_all(line.as_bytes()).await.is_err() || event == LongLivedEvent::Stopping {
                return;
            }
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "upgrade"), (header::UPGRADE, "lines")])
}

fn main() -> ExitCode {
    vestibule::main::<Events>()
}
