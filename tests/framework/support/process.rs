//! The things that a process holds, as Linux counts them.

use std::fs;

/// Returns the number of open files, sockets included.
pub(crate) fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

/// Returns the resident memory in kilobytes.
pub(crate) fn resident_kilobytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux reports it");
    resident.trim().trim_end_matches(" kB").parse().expect("a number")
}
