//! Instructions, counted by callgrind.

use super::server::Server;
use devstack::Signal;
use std::{io::Read, process::Command};

/// The program that counts instructions, with its arguments.
pub(crate) const CALLGRIND: [&str; 3] = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];

/// The setting of glibc with which it copies memory in loops. Valgrind would count the one instruction that copies a block
/// as many: one for each byte.
pub(crate) const NO_BLOCK_COPIES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=1000000000");

/// Returns `true` if there is valgrind, and says so if there is none.
pub(crate) fn is_there() -> bool {
    let is_there = Command::new(CALLGRIND[0]).arg("--version").output().is_ok();
    if !is_there {
        println!("instructions: skipped, because there is no valgrind (Debian: apt-get install valgrind)");
    }
    is_there
}

/// Stops a server that runs under [`CALLGRIND`]. Returns the instructions from its start to its end.
pub(crate) fn instructions_of(mut server: Server) -> f64 {
    devstack::send_signal(server.child.id(), Signal::TERM).expect("it runs");
    let mut output = String::new();
    let errors = server.child.stderr.as_mut().expect("it is piped");
    errors.read_to_string(&mut output).expect("valgrind writes text");
    collected(&output)
}

/// Reads the number of instructions from the output of callgrind.
pub(crate) fn collected(output: &str) -> f64 {
    let count = output.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    count.expect("callgrind ends with the number of instructions")
}
