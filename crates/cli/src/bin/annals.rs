//! The command `annals`; all of it is in the library.

fn main() -> std::process::ExitCode {
    annals_cli::main()
}
