//! The page of the admin listener for people: the status as HTML, without scripts and without anything from elsewhere.

mod chart;

use self::chart::RequestChart;
use super::{
    CredentialStatus, HeldStage, IamDatabaseStatus, PastReload, Status, readiness::Readiness,
    reload_record::ReloadRecord,
};
use crate::{moment::Moment, request_history::RequestHistory};
use std::{
    fmt::{self, Display, Formatter, Write},
    time::Duration,
};
use time::OffsetDateTime;

/// The policy of the page: a browser loads nothing and runs nothing, whatever is in the page.
pub(crate) const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("page/style.css");

/// The number of reloads in the list. The chart has more.
const LISTED_RELOADS: usize = 20;

/// The page of one moment.
pub(crate) struct StatusPage<'a> {
    /// A snapshot of the status.
    pub(crate) status: &'a Status,
    pub(crate) history: &'a RequestHistory,
}

impl Display for StatusPage<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (status, readiness) = (self.status, self.status.readiness());
        let (service, state) = (Escaped(status.service), word(&readiness.status));
        write!(
            f,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta http-equiv=\"refresh\" content=\"15\">\
             <title>{service}: {state}</title><style>{STYLE}</style></head><body>\
             <header><h1>{service} {version}</h1>\
             <p><span class=\"state {state}\">{state}</span>, generation {generation} in service for {age}</p>\
             <p class=\"faint\">instance {instance}, started {started}</p>\
             <nav><a href=\"/status\">/status</a><a href=\"/metrics\">/metrics</a><a href=\"/readyz\">/readyz</a>\
             <a href=\"/docs\">/docs</a></nav>\
             </header><main>",
            version = Escaped(status.version),
            generation = status.generation,
            age = Age(status.in_service_since.age()),
            instance = status.instance,
            started = Utc(status.started.at()),
        )?;
        self.last_hour(f)?;
        self.readiness(f, &readiness)?;
        self.credentials(f)?;
        self.authentication(f)?;
        self.draining(f)?;
        self.reloads(f)?;
        f.write_str("</main></body></html>\n")
    }
}

impl StatusPage<'_> {
    fn last_hour(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let periods = self.history.last_hour();
        let chart = RequestChart { periods: &periods, reloads: &self.status.past_reloads };
        write!(f, "<section><h2>The last hour</h2><figure>{chart}</figure>")?;
        if let Some(rotation) = &self.status.rotation {
            write!(f, "<p>The last rotation: {}</p>", Escaped(rotation.status()))?;
        }
        f.write_str(
            "<p class=\"faint\">Lines are reloads: green ones published, red ones failed, dotted ones found nothing new.</p>\
             </section>",
        )
    }

    fn readiness(&self, f: &mut Formatter<'_>, readiness: &Readiness) -> fmt::Result {
        f.write_str("<section><h2>Readiness</h2>")?;
        let checks = &self.status.readiness_checks;
        if readiness.reasons.is_empty() {
            f.write_str("<p>Ready for requests.</p>")?;
        }
        for reason in &readiness.reasons {
            write!(f, "<p class=\"{}\">{}</p>", word(&readiness.status), Escaped(reason))?;
        }
        if !checks.is_empty() {
            f.write_str(
                "<table><thead><tr><th>check</th><th>state</th><th>since</th><th>if it fails</th></tr></thead><tbody>",
            )?;
            for check in checks {
                let state = word(&check.state());
                f.write_str("<tr>")?;
                cell(f, "check", "", check.name)?;
                cell(f, "state", &state, &state)?;
                match check.since() {
                    Some(since) => cell(f, "since", "", Ago(since))?,
                    None => cell(f, "since", "", "–")?,
                }
                cell(f, "if it fails", "", if check.is_required { "no requests (503)" } else { "degraded" })?;
                f.write_str("</tr>")?;
            }
            f.write_str("</tbody></table>")?;
        }
        for key in &self.status.needs_restart {
            write!(f, "<p class=\"warn\">A restart takes up the changed setting {}.</p>", Escaped(key))?;
        }
        f.write_str("</section>")
    }

    fn credentials(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<section><h2>Credentials</h2>")?;
        for IamDatabaseStatus { name, username, host, port, .. } in &self.status.iam_databases {
            let user = username.as_deref().unwrap_or_default();
            let (name, at) = (Escaped(name), Escaped(format_args!("{user} at {}:{port}", &**host)));
            write!(f, "<p>{name} needs no secret: {at} logs in with IAM, with a new token each time.</p>")?;
        }
        if let Some(end) = self.status.manager_token_end {
            write!(f, "<p class=\"faint\">The token for the manager ends at {}.</p>", Utc(end))?;
        }
        if self.status.credentials.is_empty() {
            return f.write_str("<p>None.</p></section>");
        }
        f.write_str(
            "<table><thead><tr><th>name</th><th>version</th><th>stage</th><th>loaded</th><th>verified</th>\
             <th>expires</th></tr></thead><tbody>",
        )?;
        for credential in &self.status.credentials {
            credential.row(f)?;
        }
        f.write_str("</tbody></table></section>")
    }

    fn authentication(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(authenticator) = &self.status.authentication else { return Ok(()) };
        let (issuer, fetched) = (Escaped(authenticator.issuer()), Ago(authenticator.keys_fetched()));
        write!(
            f,
            "<section><h2>Authentication</h2><p>Tokens of {issuer}; its keys were fetched {fetched}.</p></section>"
        )
    }

    fn draining(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<section><h2>Older generations</h2>")?;
        if self.status.draining.is_empty() {
            f.write_str("<p>Nobody holds anything of an older generation.</p>")?;
        }
        for draining in &self.status.draining {
            let (number, since, holders) = (draining.number, Ago(draining.since), draining.holders());
            write!(f, "<p>Generation {number}, replaced {since}, is held by {}</p>", Escaped(holders))?;
        }
        f.write_str("</section>")
    }

    fn reloads(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<section><h2>The last reloads</h2>")?;
        if let Some(ReloadRecord { error: Some(error), exit_code, .. }) = &self.status.last_reload {
            write!(f, "<p class=\"bad\">The last one failed with code {exit_code}: {}</p>", Escaped(error))?;
        }
        for stays in self.status.last_reload.iter().flat_map(|reload| &reload.carried_over) {
            let (name, problem) = (Escaped(stays.credential), Escaped(&stays.problem));
            write!(f, "<p class=\"warn\">{name} stays at the version held: {problem}</p>")?;
        }
        if self.status.past_reloads.is_empty() {
            return f.write_str("<p>None since the start.</p></section>");
        }
        f.write_str(
            "<table><thead><tr><th>started</th><th>trigger</th><th>outcome</th><th>took</th><th>generation</th></tr>\
             </thead><tbody>",
        )?;
        for reload in self.status.past_reloads.iter().rev().take(LISTED_RELOADS) {
            reload.row(f)?;
        }
        f.write_str("</tbody></table></section>")
    }
}

impl CredentialStatus {
    fn row(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<tr>")?;
        write!(f, "<td data-label=\"name\">{} ({})</td>", Breakable(self.name), Breakable(&self.id))?;
        let mut versions = self.version.to_string();
        for (stage, version) in &self.others {
            write!(versions, "; {}: {version}", word(stage))?;
        }
        cell(f, "version", "", versions)?;
        let class = if self.stage == HeldStage::Current { "good" } else { "warn" };
        cell(f, "stage", class, self.stage)?;
        cell(f, "loaded", "", Ago(self.loaded))?;
        cell(f, "verified", "", Ago(self.verified))?;
        match (&self.lease, self.expires) {
            (Some(lease), _) => {
                let class = if lease.due <= OffsetDateTime::now_utc() { "bad" } else { "" };
                cell(f, "expires", class, format_args!("{} (lease)", Utc(lease.end)))?;
            }
            (None, None) => cell(f, "expires", "", "–")?,
            (None, Some(expires)) => {
                let left = Duration::try_from(expires.end() - OffsetDateTime::now_utc()).unwrap_or_default();
                let class = if expires.is_due() { "bad" } else { "" };
                cell(f, "expires", class, format_args!("{} ({} left)", Utc(expires.end()), Age(left)))?;
            }
        }
        f.write_str("</tr>")
    }
}

impl PastReload {
    fn row(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let outcome = self.outcome.to_string();
        f.write_str("<tr>")?;
        cell(f, "started", "", format_args!("{} ({})", Utc(self.started.at()), Ago(self.started)))?;
        cell(f, "trigger", "", self.trigger)?;
        if self.exit_code == 0 {
            cell(f, "outcome", &outcome, &outcome)?;
        } else {
            cell(f, "outcome", &outcome, format_args!("{outcome}, code {}", self.exit_code))?;
        }
        cell(f, "took", "", format_args!("{} ms", self.duration_ms))?;
        cell(f, "generation", "", self.generation)?;
        f.write_str("</tr>")
    }
}

/// Writes a cell of a table. On a phone, its label stands before it.
fn cell(f: &mut Formatter<'_>, label: &str, class: &str, value: impl Display) -> fmt::Result {
    write!(f, "<td data-label=\"{label}\" class=\"{}\">{}</td>", Escaped(class), Escaped(value))
}

/// Returns the word that the JSON has for a state.
fn word(state: &impl serde::Serialize) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// A text in HTML, between tags or in a quoted attribute.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(EscapingWriter(f), "{}", self.0)
    }
}

/// A text in HTML whose lines may end behind `/`, `-` and `_`, as the parts of ids do.
struct Breakable<T>(T);

impl<T: Display> Display for Breakable<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for part in self.0.to_string().split_inclusive(['/', '-', '_']) {
            write!(f, "{}<wbr>", Escaped(part))?;
        }
        Ok(())
    }
}

struct EscapingWriter<'a, 'b>(&'a mut Formatter<'b>);

impl Write for EscapingWriter<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(['&', '<', '>', '"', '\'']) {
            let (plain, entity) = match part.as_bytes().last() {
                Some(b'&') => (&part[..part.len() - 1], "&amp;"),
                Some(b'<') => (&part[..part.len() - 1], "&lt;"),
                Some(b'>') => (&part[..part.len() - 1], "&gt;"),
                Some(b'"') => (&part[..part.len() - 1], "&quot;"),
                Some(b'\'') => (&part[..part.len() - 1], "&#39;"),
                _ => (part, ""),
            };
            self.0.write_str(plain)?;
            self.0.write_str(entity)?;
        }
        Ok(())
    }
}

/// A time of the wall clock, to the second.
struct Utc(OffsetDateTime);

impl Display for Utc {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let time = self.0.time();
        write!(f, "{} {:02}:{:02}:{:02} UTC", self.0.date(), time.hour(), time.minute(), time.second())
    }
}

/// The time since a moment.
struct Ago(Moment);

impl Display for Ago {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} ago", Age(self.0.age()))
    }
}

/// A duration in its largest unit.
struct Age(Duration);

impl Display for Age {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..120 => write!(f, "{seconds} s"),
            120..7200 => write!(f, "{} min", seconds / 60),
            7200..172_800 => write!(f, "{} h", seconds / 3600),
            _ => write!(f, "{} days", seconds / 86_400),
        }
    }
}

/// Returns a number with two digits, or all before the point.
fn rounded(number: f64) -> String {
    let digits = match number {
        0.0 => 0,
        ..0.1 => 3,
        ..1.0 => 2,
        ..10.0 => 1,
        _ => 0,
    };
    format!("{number:.digits$}")
}

#[cfg(test)]
mod tests;
