//! Makes Cargo compile again after a change in `migrations/`, which `sqlx::migrate!` reads at compile time.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
