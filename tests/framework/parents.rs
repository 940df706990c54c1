//! Parents that start the service in an odd state. The service trusts none of it.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{configuration_folder::ConfigurationFolder, log_events::events_that_say, time_waits::let_time_pass},
};
use devstack::{DEFAULT_TIMEOUT, RunningService, Signal, TestProcess};
use std::{fs, time::Duration};

/// The signals that a service ignores: SIGPIPE (13), and SIGXFSZ (25).
const IGNORED: u64 = 1 << 12 | 1 << 24;

/// The signals 32 and 33. glibc keeps them for itself, and lets nobody change them.
const OF_LIBC: u64 = 0b11 << 31;

/// Returns the command line of a parent: it runs a line of Python, and becomes the service.
fn parent(line: &str) -> [String; 3] {
    let script = format!("import os, resource, signal, sys\n{line}\nos.execv(sys.argv[1], sys.argv[1:])");
    ["python3".into(), "-c".into(), script]
}

/// Returns a field of the service's `/proc/PID/status`.
fn kernel_status(process: &TestProcess, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.expect("the kernel has the field").trim().to_owned()
}

#[tokio::test]
async fn signals_work_whatever_the_parent_did_to_them() {
    let tenant = SERVICE.migrated("signals").await;
    let blocks_all = parent("signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())");
    let has_sent_one =
        parent("signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); os.kill(os.getpid(), signal.SIGHUP)");
    let ignores = parent(
        "for n in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGQUIT): signal.signal(n, signal.SIG_IGN)",
    );
    let nohup = vec!["nohup".to_owned()];
    for (parent, stop) in [
        (blocks_all.to_vec(), Signal::TERM),
        (blocks_all.to_vec(), Signal::INT),
        (has_sent_one.to_vec(), Signal::TERM),
        (ignores.to_vec(), Signal::INT),
        (ignores.to_vec(), Signal::TERM),
        (nohup, Signal::TERM),
    ] {
        let launch = SERVICE.launch(&tenant).started_by(parent.clone());
        let mut running = RunningService::start(launch, &tenant).await;
        if cfg!(target_os = "linux") {
            assert_eq!(kernel_status(&running.process, "SigBlk"), "0000000000000000", "{parent:?}");
            let ignored = u64::from_str_radix(&kernel_status(&running.process, "SigIgn"), 16).unwrap();
            assert_eq!(ignored & !OF_LIBC, IGNORED, "{ignored:x}, {parent:?}");
        }
        assert_eq!(running.reload().await["outcome"], "unchanged", "{parent:?}");
        running.process.signal(stop);
        assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0), "{parent:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn limits_and_the_umask_are_the_services_own() {
    let tenant = SERVICE.migrated("limits").await;
    let parent = parent("resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096)); os.umask(0)");
    let running = RunningService::start(SERVICE.launch(&tenant).started_by(parent), &tenant).await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.process.pid())).unwrap();
    let open_files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let numbers: Vec<_> = open_files.split_whitespace().take(2).collect();
    assert_eq!(numbers, ["4096", "4096"]);
    assert_eq!(kernel_status(&running.process, "Umask"), "0077");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_that_gets_too_few_threads_ends_with_70_and_says_what_to_raise() {
    let tenant = SERVICE.migrated("threads").await;
    // There is memory for the stacks of this many threads.
    for threads in 0..3 {
        let limit = format!("{} << 29", 2 * threads + 1);
        let parent = parent(&format!("resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))"));
        let launch = SERVICE.launch(&tenant).started_by(parent).env("TOKIO_WORKER_THREADS", "1");
        let exited = launch.env("RUST_MIN_STACK", "1073741824").start().exited(DEFAULT_TIMEOUT).await;
        assert_eq!(exited.code, Some(70), "{threads} threads: {}", exited.stderr);
        assert!(exited.stderr.contains("TasksMax="), "{threads} threads: {}", exited.stderr);
    }
}

#[tokio::test]
async fn descriptors_and_alarms_of_the_parent_end_with_it() {
    let tenant = SERVICE.migrated("pipe").await;
    let parent = parent(
        "reader, writer = os.pipe()
os.set_inheritable(writer, True)
if os.fork() == 0:
    os.close(writer)
    os.read(reader, 1)
    print('the pipe has ended', flush=True)
    os._exit(0)
os.close(reader)
signal.setitimer(signal.ITIMER_REAL, 1.5)",
    );
    let mut running = RunningService::start(SERVICE.launch(&tenant).started_by(parent), &tenant).await;
    running.process.wait_for_line(|line| line == "the pipe has ended", DEFAULT_TIMEOUT).await;
    let_time_pass("the parent's alarm would end the process", Duration::from_secs(2)).await;
    assert!(running.process.is_running());
}

#[tokio::test]
async fn timers_of_cpu_time_end_with_the_parent() {
    let tenant = SERVICE.migrated("timers").await;
    for timer in ["ITIMER_VIRTUAL", "ITIMER_PROF"] {
        let parent = parent(&format!("signal.setitimer(signal.{timer}, 0.05)"));
        RunningService::start(SERVICE.launch(&tenant).started_by(parent), &tenant).await.create_note("a note").await;
    }
}

/// The output goes into a file that may not grow. Nothing can be written, and the exit code says it all.
#[tokio::test]
async fn a_file_that_is_full_changes_no_exit_code() {
    let folder = ConfigurationFolder::new();
    let parent = parent(&format!(
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
for number in (1, 2): os.dup2(os.open({:?}, os.O_WRONLY | os.O_CREAT), number)",
        folder.path().join("output")
    ));
    let launch = SERVICE.launch_without_tenant().await.args(["check"]).env("APP_SERVER__DRAIN", "soon");
    assert_eq!(launch.started_by(parent).run().code, Some(78));
}

#[tokio::test]
async fn variables_that_nobody_can_undo_are_logged_by_name() {
    let tenant = SERVICE.migrated("variables").await;
    let launch = SERVICE
        .launch(&tenant)
        .env("LD_LIBRARY_PATH", "/no/such/folder")
        .env("GLIBC_TUNABLES", "")
        .env("TOKIO_WORKER_THREADS", "many")
        .env("RUST_MIN_STACK", "1")
        .env("SMITHY_CLIENT_SDK_CUSTOM_PARTITION", "/no/such/file");
    let running = RunningService::start(launch, &tenant).await;
    let linker = events_that_say(&running.process, "dynamic linker");
    assert_eq!(linker[0]["fields"]["variables"], "GLIBC_TUNABLES, LD_LIBRARY_PATH", "{linker:?}");
    let ignored = events_that_say(&running.process, "a part of the parent's state");
    let mut problems: Vec<_> = ignored.iter().map(|event| event["fields"]["problem"].as_str().unwrap()).collect();
    problems.sort_unstable();
    let are_named = problems[0].starts_with("RUST_MIN_STACK") && problems[1].starts_with("TOKIO_WORKER_THREADS");
    assert!(problems.len() == 2 && are_named, "{problems:?}");
    assert!(!running.process.output().contains("/no/such"), "a variable's value is in the log");
}

/// A deploy puts another folder in the place of the one in which the parent started the service.
#[tokio::test]
async fn the_configuration_folder_is_the_one_at_its_path_and_not_the_one_of_the_start() {
    let tenant = SERVICE.migrated("folder").await;
    let folder = ConfigurationFolder::new();
    let parent = parent(&format!("os.chdir({:?})", folder.path()));
    let launch = folder.launch(&tenant).env("APP_CONFIG_DIR", ".").started_by(parent);
    let mut running = RunningService::start(launch, &tenant).await;
    let before = folder.path().with_extension("before");
    fs::rename(folder.path(), &before).unwrap();
    fs::create_dir(folder.path()).unwrap();
    folder.write("[database]\nacquire_timeout = \"4s\"\n");
    assert_eq!(running.reload().await["outcome"], "published");
    fs::remove_dir_all(before).unwrap();
}
