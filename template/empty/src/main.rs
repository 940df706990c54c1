//! The binary of the service.

fn main() -> std::process::ExitCode {
    vestibule::main::<service::Hello>()
}
