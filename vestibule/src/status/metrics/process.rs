//! Metrics of the process from Linux, under the names that Prometheus' client libraries share.

use super::MetricsEncoder;
use prometheus_client::{
    encoding::EncodeMetric,
    metrics::{MetricType, counter::ConstCounter},
};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};
use std::{
    fmt,
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

/// The time at which the process started, in seconds since 1970. A wall clock that is set later does not change it.
static START: OnceLock<f64> = OnceLock::new();

fn since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Returns the seconds since the machine started. Not from /proc/stat, which `ProcSubset=pid` of systemd hides.
fn since_boot() -> f64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

impl MetricsEncoder<'_> {
    /// Encodes the metrics of the process. Leaves out those that the kernel does not tell.
    pub(super) fn process(&mut self) -> fmt::Result {
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        if let Ok(stat) = process.stat() {
            let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
            let (name, help) = ("process_cpu_seconds", "Time on a CPU, in user and kernel mode");
            let cpu = ConstCounter::new(seconds(stat.utime + stat.stime));
            cpu.encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)?;
            self.gauge("process_resident_memory_bytes", "Resident memory", stat.rss * procfs::page_size())?;
            self.gauge("process_virtual_memory_bytes", "Mapped memory", stat.vsize)?;
            self.gauge("process_threads", "Threads", stat.num_threads)?;
            let start = *START.get_or_init(|| since_1970() - since_boot() + seconds(stat.starttime));
            self.gauge("process_start_time_seconds", "The time at which the process started", start)?;
        }
        if let Ok(open) = process.fd_count() {
            self.gauge("process_open_fds", "Open file descriptors", open)?;
        }
        match getrlimit(Resource::Nofile).current {
            Some(limit) => self.gauge("process_max_fds", "The largest number of open file descriptors", limit),
            None => Ok(()),
        }
    }
}
