use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use devstack::{Delivery, Receiver, Tenant};

use super::Failure;
use super::project::Credential;

/// What is said of one second; under load there is more to tell than anybody reads.
const LINES: u32 = 3;
const SECOND: Duration = Duration::from_secs(1);

/// Starts the other side of each API key that the project has one for, which says what it takes.
pub(crate) fn receive(
    tenant: &Tenant,
    credentials: &[Credential],
    receivers: BTreeMap<String, SocketAddr>,
) -> Result<Vec<Receiver>, Failure> {
    let asked = |name: &String| credentials.iter().any(|credential| credential.name == *name);
    let wanted = receivers.into_iter().filter(|(name, _)| asked(name));
    wanted
        .map(|(name, address)| {
            let receiver = Receiver::at(address).map_err(|error| {
                Failure::new(format!(
                    "{}\n{address} is where `cargo dev` stands for the other side of `{name}`: stop what listens there, \
                     or choose another port in [package.metadata.devstack.receivers] of Cargo.toml, and in the URL in \
                     config/dev.toml",
                    error.report()
                ))
            })?;
            receiver.accept_keys_of(tenant, &name);
            let told = Mutex::new(Told { second: Instant::now(), lines: 0, more: 0 });
            receiver.on_request(move |delivery| {
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                for line in told.lines(delivery) {
                    eprintln!("{name:>9}  {line}");
                }
            });
            Ok(receiver)
        })
        .collect()
}

/// How much was said in the second that is under way.
struct Told {
    second: Instant,
    lines: u32,
    more: u32,
}

impl Told {
    /// One line a delivery, but for those with the current key that succeed in a second that has had its lines: they
    /// are counted.
    fn lines(&mut self, delivery: &Delivery) -> Vec<String> {
        let mut lines = Vec::new();
        if self.second.elapsed() > SECOND {
            if self.more > 0 {
                lines.push(format!("and {} more like these", self.more));
            }
            *self = Self { second: Instant::now(), lines: 0, more: 0 };
        }
        let Delivery { method, path, answered, stage, .. } = delivery;
        let body = delivery.json();
        let common = answered.is_some_and(|status| status.is_success()) && *stage == Some("AWSCURRENT");
        if common && self.lines >= LINES {
            self.more += 1;
        } else {
            let kind = body["type"].as_str().unwrap_or("?");
            let answer = answered.map_or_else(|| "-".into(), |status| status.to_string());
            let key = stage.map_or_else(|| "no key of ours".into(), |stage| format!("key {stage}"));
            lines.push(format!("{method} {path}  {kind}  {key}  {answer}"));
            self.lines += 1;
        }
        lines
    }
}
