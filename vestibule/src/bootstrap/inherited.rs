//! The state that a process inherits from its parent. None of it is trusted: each part is replaced before anything else
//! runs, or logged if that is impossible.

use rustix::{
    fd::BorrowedFd,
    fs::Mode,
    io::{FdFlags, fcntl_getfd},
    process::{Resource, Rlimit, getrlimit, setrlimit, umask},
};
use std::{
    ffi::{OsStr, OsString},
    fs,
    mem::MaybeUninit,
    ops::RangeInclusive,
    path::PathBuf,
    ptr,
};

/// The variables of libraries that are numbers, with their bounds. With another number, no thread could start, or one would
/// end the process.
const NUMBERS: [(&str, RangeInclusive<u64>, &str); 2] = [
    (
        "TOKIO_WORKER_THREADS",
        1..=1024,
        "TOKIO_WORKER_THREADS is no number of threads from 1 to 1024, and has no effect",
    ),
    (
        "RUST_MIN_STACK",
        2 << 20..=1 << 30,
        "RUST_MIN_STACK is no number of bytes from 2 MiB to 1 GiB, and has no effect",
    ),
];

/// The number of the last signal, the real-time ones of Linux included. Numbers without a signal are left out.
const LAST_SIGNAL: i32 = 64;

/// The timers of a process: of the time that passes, of its own CPU time, and of that with the kernel's. libc has no names
/// for them on Linux.
const TIMERS: RangeInclusive<i32> = 0..=2;

/// The names of variables which libraries would read by themselves, and which are removed. Nothing but the configuration
/// may stand in for a credential or a setting, and nothing may make a library log a secret.
///
/// sqlx reads libpq's variables (`PGPASSWORD`, `PGSSLKEY`, `PGOPTIONS`, …), and no option overrides some of them. Two
/// variables of the AWS SDK make it log bodies, and a third one replaces the domains of AWS. OpenTelemetry's may hold the
/// key of a collector.
fn is_foreign(name: &str) -> bool {
    name.starts_with("PG")
        || name.starts_with("SMITHY_")
        || is_of_opentelemetry(name)
        || ["LOG_SENSITIVE_BODIES", "LOG_SIGNABLE_BODY"].contains(&name)
}

fn is_of_opentelemetry(name: &str) -> bool {
    name.starts_with("OTEL_")
}

/// Returns `true` if the variable makes the dynamic linker load code or change its work, which nobody can undo.
fn changes_linker(name: &str) -> bool {
    name.starts_with("LD_") || name.starts_with("DYLD_") || name == "GLIBC_TUNABLES"
}

/// The parts of the parent's state that could not be replaced.
#[derive(Default)]
pub(crate) struct Inherited {
    /// The names of the variables that the dynamic linker has read.
    linker_variables: Vec<String>,
    /// The names of variables of OpenTelemetry, which somebody may take for settings.
    opentelemetry_variables: Vec<String>,
    problems: Vec<&'static str>,
}

impl Inherited {
    /// Replaces the state. Call it first in `main`: other threads would inherit the signal mask, and might read the
    /// environment.
    pub(crate) fn replace() -> Self {
        let mut inherited = Self::default();
        reset_signals();
        inherited.raise_open_files();
        umask(Mode::RWXG | Mode::RWXO);
        inherited.close_descriptors();
        inherited.remove_variables();
        inherited
    }

    /// Logs the parts that could not be replaced.
    pub(crate) fn log(&self) {
        if !self.linker_variables.is_empty() {
            tracing::warn!(
                variables = self.linker_variables.join(", "),
                "the dynamic linker has read variables of the parent; their code runs in this process"
            );
        }
        if !self.opentelemetry_variables.is_empty() {
            tracing::warn!(
                variables = self.opentelemetry_variables.join(", "),
                "variables of OpenTelemetry have no effect; [traces] in the configuration has the settings of traces"
            );
        }
        for problem in &self.problems {
            tracing::warn!(problem, "could not replace a part of the parent's state; going on with it");
        }
    }

    /// Raises the soft limit of open files to the hard one. The soft one is low for programs that use select(2).
    fn raise_open_files(&mut self) {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
            self.problems.push("the soft limit of open files is lower than the hard one");
        }
    }

    /// Closes the parent's descriptors: they would hold its files, pipes and sockets as long as this process lives.
    fn close_descriptors(&mut self) {
        let folder = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
        let Ok(entries) = fs::read_dir(folder) else {
            self.problems.push("its open descriptors are unknown, because /proc is not there");
            return;
        };
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // The folder's own descriptor is closed before the first of these.
        let numbers: Vec<i32> = numbers.filter(|number| *number > 2).collect();
        for number in numbers {
            // SAFETY: the number is used at once. If it is not open any more, fcntl says so.
            #[expect(unsafe_code, reason = "a number from outside is no descriptor for the type system")]
            let flags = unsafe { fcntl_getfd(BorrowedFd::borrow_raw(number)) };
            // One with close-on-exec was opened after exec, by a library that was loaded before `main`.
            if flags.is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC)) {
                // SAFETY: it came through exec, so nothing in this process owns it.
                #[expect(unsafe_code, reason = "no type owns an inherited descriptor")]
                unsafe {
                    rustix::io::close(number);
                }
            }
        }
    }

    /// Removes the variables that libraries would read by themselves, and empty ones: `${X:-}` leaves one if nobody set
    /// `X`, and some libraries take it for a value.
    fn remove_variables(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "it looks at names, and at the number of threads")]
        let variables: Vec<_> = std::env::vars_os().collect();
        for (name, value) in variables {
            let text = name.to_string_lossy();
            let problem = problem_of_number(&text, &value);
            if let Some(problem) = problem
                && !value.is_empty()
            {
                self.problems.push(problem);
            }
            if is_of_opentelemetry(&text) && !value.is_empty() {
                self.opentelemetry_variables.push(text.clone().into_owned());
            }
            if changes_linker(&text) {
                self.linker_variables.push(text.into_owned());
            } else if is_foreign(&text) || problem.is_some() || value.is_empty() {
                remove_variable(&name);
            }
        }
    }
}

/// Returns the problem of a variable that should be a number.
fn problem_of_number(name: &str, value: &OsStr) -> Option<&'static str> {
    let (_, bounds, problem) = NUMBERS.iter().find(|(number, ..)| *number == name)?;
    let number = value.to_str().and_then(|text| text.parse().ok());
    if number.is_some_and(|number| bounds.contains(&number)) { None } else { Some(problem) }
}

fn remove_variable(name: &OsString) {
    // SAFETY: no other thread runs yet that could read the environment. The runtime starts later in `main`.
    #[expect(unsafe_code, reason = "the standard library can remove a variable only with unsafe code")]
    unsafe {
        std::env::remove_var(name);
    }
}

/// Unblocks all signals, resets those that the parent ignored, and stops its timers. A log that has reached the largest size
/// of a file is one that cannot be written, so SIGXFSZ is ignored.
///
/// SIGHUP is ignored from now on. `serve` handles it; a command runs to its end, which it has.
fn reset_signals() {
    // SAFETY: the pointers are valid for the calls, and no handler is installed.
    #[expect(unsafe_code, reason = "rustix cannot change the signals of a process that uses libc")]
    unsafe {
        // A SIGHUP that waits would end the process when it is unblocked. It asks for nothing: nothing has been read yet.
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        for signal in 1..=LAST_SIGNAL {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed();
            let known = libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0;
            // The standard library ignores SIGPIPE.
            let is_ours = [libc::SIGHUP, libc::SIGPIPE, libc::SIGXFSZ].contains(&signal);
            if known && !is_ours && action.assume_init().sa_sigaction == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        // A timer goes on through exec, and its signal would end the process.
        let off = MaybeUninit::<libc::itimerval>::zeroed();
        for timer in TIMERS {
            libc::setitimer(timer, off.as_ptr(), ptr::null_mut());
        }
        let mut none = MaybeUninit::<libc::sigset_t>::zeroed();
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

/// Returns the path from the root, without blanks and ends of lines around it. A later change of the working directory then
/// means nothing.
pub(crate) fn absolute(folder: PathBuf) -> PathBuf {
    let folder = match folder.to_str() {
        Some(text) => text.trim().into(),
        None => folder,
    };
    std::path::absolute(&folder).unwrap_or(folder)
}
