//! Runs the built `annals` over a store in a temporary directory.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod faults;
pub(crate) mod owner;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What a run of the command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The same, held to this exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// The same, held to an error of what, why and what next that mentions all of these.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in\n{}", self.stderr);
        }
        self
    }

    /// The lines of stdout.
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// The lines of stdout, each read as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}"))).collect()
    }
}

/// A directory for a store, gone at the end of the test.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// A directory in which there is no store yet.
    pub(crate) fn empty() -> Self {
        Place { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A directory with a store and a topic.
    pub(crate) fn with_store() -> Self {
        let place = Place::empty();
        place.run(&["init"]).exits(0);
        place
    }

    /// A directory, such as a small file system, in whose place there is no store yet.
    pub(crate) fn below(dir: &Path) -> Self {
        Place { dir: tempfile::tempdir_in(dir).expect("a temporary directory") }
    }

    /// Where the store is, or will be.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// A file beside the store.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command with these arguments on this store.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_annals"));
        command
            .args(args)
            .env("ANNALS_STORE", self.store())
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR_FORCE")
            .env_remove("ANNALS_LOG")
            .env_remove("RUST_LOG");
        command.current_dir(self.dir.path());
        command
    }

    /// Runs it with nothing on stdin.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, b"")
    }

    /// Runs it with this on stdin.
    #[track_caller]
    pub(crate) fn run_with(&self, args: &[&str], stdin: impl AsRef<[u8]>) -> Ran {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut to = child.stdin.take().expect("stdin is piped");
        let input = stdin.as_ref().to_vec();
        // Written beside reading, since both pipes can fill up. A command that ends early closes the pipe.
        let writing =
            std::thread::Builder::new().spawn(move || drop(to.write_all(&input))).expect("a thread");
        let output = child.wait_with_output().expect("the command ends");
        writing.join().expect("the writer ends");
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts it and leaves it running.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command(args).stdin(Stdio::piped()))
    }
}

/// A command that is running.
pub(crate) struct Running {
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<BufReader<ChildStdout>>,
    child: Option<Child>,
}

impl Running {
    /// Starts a command whose output is wanted. Its stdin is what the command says.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        Running {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map(BufReader::new),
            child: Some(child),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Gives it a line.
    pub(crate) fn write_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdin.flush()).expect("it reads");
    }

    /// Waits for a line; empty at the end.
    pub(crate) fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.as_mut().expect("stdout is open").read_line(&mut line).expect("it writes text");
        line.trim_end().to_owned()
    }

    /// Sends Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let pid =
            i32::try_from(self.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        let child = self.child.as_mut().expect("it runs");
        child.kill().and_then(|()| child.wait()).expect("it runs");
    }

    /// Closes its stdin, reads what is left of its output, and waits for its end.
    pub(crate) fn finish(mut self) -> Ran {
        drop(self.stdin.take());
        let mut stdout = String::new();
        if let Some(mut out) = self.stdout.take() {
            std::io::Read::read_to_string(&mut out, &mut stdout).expect("it writes text");
        }
        let output = self.child.take().expect("it runs").wait_with_output().expect("the command ends");
        Ran {
            code: output.status.code(),
            stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only where a test failed half-way.
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
