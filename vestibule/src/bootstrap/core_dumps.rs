//! Core dumps, which would write credentials to disk.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Keeps credentials out of core dumps, and away from debuggers of the same user.
pub(super) fn disable() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, none).is_ok();
    #[cfg(target_os = "linux")]
    let limited =
        limited && rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).is_ok();
    if !limited {
        tracing::warn!("could not disable core dumps: a crash may write credentials to disk");
    }
}
