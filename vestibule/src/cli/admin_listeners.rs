//! The admin listeners of replicas that `audit` and `reload --fleet` ask: by URL, or by a name with several addresses.

pub(crate) mod address;

use self::address::ReplicaAddress;
use super::trust::AdminTls;
use crate::{
    bootstrap::command_error::CommandError,
    cause::RootCause,
    config::settings::LogFormat,
    exit::{Exit, Fault, Phase, Report},
};
use rustls::pki_types::ServerName;
use std::{collections::BTreeSet, io, net::SocketAddr, num::NonZeroUsize, path::Path, time::Duration};
use tokio::time::timeout;

/// The longest time for the addresses of one name: two attempts of the usual resolver.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest number of addresses of one name. No answer of DNS has more.
const MAX_ADDRESSES: usize = 4096;

/// The admin listeners of a command line.
pub(super) struct AdminListeners {
    /// The addresses, in the order of the command line. Those of one name are sorted.
    pub(super) addresses: Vec<ReplicaAddress>,
    /// The expected number of different replicas. `None` if a name was given, which cannot say how many there should be.
    pub(super) expected: Option<usize>,
    pub(super) tls: AdminTls,
}

/// A target of the command line.
enum AdminTarget {
    Replica(ReplicaAddress),
    /// Every address of the name in this URL.
    Name(ReplicaAddress),
}

impl AdminTarget {
    /// Parses a URL of an admin listener, `dns://name:port`, or `dns+https://name:port`.
    ///
    /// # Errors
    /// The mistake in it. Never quotes the text: a URL may contain a password.
    fn parse(text: &str) -> Result<Self, &'static str> {
        for (start, scheme) in [("dns://", "http"), ("dns+https://", "https")] {
            if let Some(rest) = text.strip_prefix(start) {
                return Ok(Self::Name(ReplicaAddress::parse(&format!("{scheme}://{rest}"))?));
            }
        }
        Ok(Self::Replica(ReplicaAddress::parse(text)?))
    }
}

impl AdminListeners {
    /// Parses the targets of a command line, and looks up the names among them.
    ///
    /// # Errors
    /// Every mistake in a target; every name without an address; the file of `ca`.
    pub(super) async fn find(
        targets: &[String],
        expect: Option<NonZeroUsize>,
        ca: Option<&Path>,
        name: Option<ServerName<'static>>,
    ) -> Result<Self, CommandError> {
        let targets = parse(targets)?;
        let has_name = targets.iter().any(|target| matches!(target, AdminTarget::Name(_)));
        let expected = match expect {
            Some(expected) => Some(expected.get()),
            None if has_name => None,
            None => Some(targets.len()),
        };
        let addresses = addresses(targets, async |host, port| {
            let host = host.to_owned();
            Ok(tokio::net::lookup_host((host, port)).await?.collect())
        });
        let addresses = addresses.await?;
        let tls = AdminTls::new(ca, name, &addresses).await.map_err(|fault| failed(vec![fault]))?;
        Ok(Self { addresses, expected, tls })
    }
}

fn failed(faults: Vec<Fault>) -> CommandError {
    CommandError { report: Report { phase: Phase::Command, faults }, format: LogFormat::Pretty }
}

/// Parses the targets.
///
/// # Errors
/// Every mistake. A fault names a target by its position and does not quote it, because it may contain a password.
fn parse(targets: &[String]) -> Result<Vec<AdminTarget>, CommandError> {
    let (mut parsed, mut faults) = (Vec::new(), Vec::new());
    for (position, target) in targets.iter().enumerate() {
        match AdminTarget::parse(target) {
            Ok(target) => parsed.push(target),
            Err(problem) => faults.push(Fault::new(
                Exit::Usage,
                format!("URL {}", position + 1),
                problem,
                "give the admin listener of a replica, as http://10.0.0.7:9090 or https://10.0.0.7:9090; or a name with the \
                 addresses of several, as dns://payments-admin:9090 or dns+https://payments-admin:9090",
            )),
        }
    }
    if faults.is_empty() { Ok(parsed) } else { Err(failed(faults)) }
}

/// Returns the addresses of all targets. `look_up` returns those of a name.
///
/// # Errors
/// A fault for each name that has no address, or too many.
async fn addresses(
    targets: Vec<AdminTarget>,
    look_up: impl AsyncFn(&str, u16) -> io::Result<Vec<SocketAddr>>,
) -> Result<Vec<ReplicaAddress>, CommandError> {
    let (mut addresses, mut faults) = (Vec::new(), Vec::new());
    for target in targets {
        let named = match target {
            AdminTarget::Replica(address) => {
                addresses.push(address);
                continue;
            }
            AdminTarget::Name(named) => named,
        };
        let found = timeout(RESOLVE_TIMEOUT, look_up(named.host(), named.port())).await;
        match found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(found) => {
                let found: BTreeSet<SocketAddr> = found.into_iter().collect();
                match found.len() {
                    0 => faults.push(name_fault(&named, "it has no address".into())),
                    1..=MAX_ADDRESSES => addresses.extend(found.into_iter().map(|address| named.found(address))),
                    many => {
                        faults.push(name_fault(
                            &named,
                            format!("it has {many} addresses; at most {MAX_ADDRESSES} are asked"),
                        ));
                    }
                }
            }
            Err(error) => faults.push(name_fault(&named, format!("it cannot be resolved: {}", RootCause::of(&error)))),
        }
    }
    if faults.is_empty() { Ok(addresses) } else { Err(failed(faults)) }
}

fn name_fault(named: &ReplicaAddress, problem: String) -> Fault {
    let remedy = "check the name, and the resolver of this machine (/etc/resolv.conf); or give the URL of each replica";
    Fault::new(Exit::Unavailable, format!("the name {}", named.host()), problem, remedy)
}

#[cfg(test)]
mod tests;
