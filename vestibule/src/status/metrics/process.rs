//! What Linux knows of the process, under the names that Prometheus' client libraries share.

use super::{NO_EXEMPLAR, Page};
use prometheus_client::metrics::MetricType;
use rustix::process::{Resource, getrlimit};
use std::fmt;

impl Page<'_> {
    /// Leaves out what the kernel does not tell.
    pub(super) fn process(&mut self) -> fmt::Result {
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        if let Ok(stat) = process.stat() {
            let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
            let (name, help) = ("process_cpu_seconds", "Time on a CPU, in user and kernel mode");
            let mut cpu = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
            cpu.encode_counter(&seconds(stat.utime + stat.stime), NO_EXEMPLAR)?;
            self.gauge("process_resident_memory_bytes", "Memory that is resident", stat.rss * procfs::page_size())?;
            self.gauge("process_virtual_memory_bytes", "Memory that is mapped", stat.vsize)?;
            self.gauge("process_threads", "Threads", stat.num_threads)?;
            if let Ok(boot) = procfs::boot_time_secs() {
                let start = boot as f64 + seconds(stat.starttime);
                self.gauge("process_start_time_seconds", "When the process started", start)?;
            }
        }
        if let Ok(open) = process.fd_count() {
            self.gauge("process_open_fds", "File descriptors that are open", open)?;
        }
        match getrlimit(Resource::Nofile).current {
            Some(most) => self.gauge("process_max_fds", "File descriptors that may be open", most),
            None => Ok(()),
        }
    }
}
