//! The other side of each API key that the project names: `cargo dev` takes the requests and prints them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::dev::error::DevError;
use crate::stack::declared_credential::DeclaredCredential;
use crate::stack::tenant::Tenant;
use crate::testing::receiver::Receiver;
use crate::testing::receiver::delivery::Delivery;

/// The maximum number of lines per second. Nobody can read more under load.
const MAX_LINES: u32 = 3;
const SECOND: Duration = Duration::from_secs(1);

/// Starts a receiver per API key that the service declares and the project has an address for. It prints the requests.
pub(crate) fn start_receivers(
    tenant: &Tenant,
    credentials: &[DeclaredCredential],
    addresses: BTreeMap<String, SocketAddr>,
) -> Result<Vec<Receiver>, DevError> {
    let mut receivers = Vec::new();
    for (name, address) in addresses {
        if credentials.iter().any(|credential| credential.name == name) {
            receivers.push(start_receiver(tenant, name, address)?);
        }
    }
    Ok(receivers)
}

fn start_receiver(tenant: &Tenant, name: String, address: SocketAddr) -> Result<Receiver, DevError> {
    let receiver = Receiver::at(address).map_err(|error| {
        DevError::new(format!(
            "{}\ncargo dev takes the requests with the key `{name}` at {address}: stop what listens there, or choose \
             another port in [package.metadata.devstack.receivers] of Cargo.toml, and in the URL in config/dev.toml",
            error.report()
        ))
    })?;
    receiver.accept_keys_of(tenant, &name);
    let report = Mutex::new(DeliveryReport::new());
    receiver.on_request(move |delivery| {
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        for line in report.lines(delivery) {
            eprintln!("{name:>9}  {line}");
        }
    });
    Ok(receiver)
}

/// The lines about one second of deliveries.
struct DeliveryReport {
    start: Instant,
    lines: u32,
    not_shown: u32,
}

impl DeliveryReport {
    fn new() -> Self {
        Self { start: Instant::now(), lines: 0, not_shown: 0 }
    }

    /// Returns the lines to print: one per delivery. If the second has had its lines, a successful delivery with the
    /// current key is only counted.
    fn lines(&mut self, delivery: &Delivery) -> Vec<String> {
        let mut lines = Vec::new();
        if self.start.elapsed() > SECOND {
            if self.not_shown > 0 {
                lines.push(format!("and {} more like these", self.not_shown));
            }
            *self = Self::new();
        }
        if self.lines >= MAX_LINES && is_ordinary(delivery) {
            self.not_shown += 1;
        } else {
            lines.push(line(delivery));
            self.lines += 1;
        }
        lines
    }
}

fn is_ordinary(delivery: &Delivery) -> bool {
    delivery.answered.is_some_and(|status| status.is_success()) && delivery.stage == Some("AWSCURRENT")
}

fn line(delivery: &Delivery) -> String {
    let Delivery { method, path, answered, stage, .. } = delivery;
    let body = delivery.json();
    let kind = body["type"].as_str().unwrap_or("?");
    let key = match stage {
        Some(stage) => format!("key {stage}"),
        None => "no key of ours".into(),
    };
    let answer = match answered {
        Some(status) => status.to_string(),
        None => "-".into(),
    };
    format!("{method} {path}  {kind}  {key}  {answer}")
}
