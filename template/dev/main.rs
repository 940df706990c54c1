//! `cargo dev`: the service on a local stack, in one command.

fn main() -> std::process::ExitCode {
    devstack::main()
}
