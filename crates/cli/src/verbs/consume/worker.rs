//! Processes of workers, and what sees to it that they end.
//!
//! # Invariants
//! - A worker's process and its children are one process group, which a keeper leads: a shell that waits for the end of its
//!   stdin, which is the death of this process, and then kills the group. A process that could not join the group does not
//!   run, so none escapes between its start and its registration.
//! - The keepers hold a lock on the store's directory, which outlives this process until the last of them is gone; the
//!   next owner's workers wait for it. No worker inherits it, nor the store's own lock.
//! - No thread waits for a worker for longer than it is told, whatever the worker does with its pipes.
//!
//! Elsewhere: what goes through the pipes (`protocol`).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use annals::Failure as WhyNot;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, OFlags};
use rustix::process::{Pid, Signal};

use super::protocol::name_in;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};

/// The lock that keepers hold.
pub(super) struct Guard(File);

impl Guard {
    /// Waits until the workers of the owner before are gone.
    pub(super) fn wait(ctx: &Context, every: Duration) -> Result<Guard> {
        let dir = ctx.store_dir();
        #[expect(clippy::disallowed_methods, reason = "the directory itself; nothing of the store is read")]
        let file = File::open(dir).map_err(|e| Failure::file("open", dir, &e))?;
        let mut said = false;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    if !std::mem::replace(&mut said, true) {
                        ctx.note("waiting for the end of the last owner's workers");
                    }
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "a lock of another process can only be looked at"
                    )]
                    std::thread::sleep(every);
                }
                // Where a directory cannot be locked, keepers still end their workers.
                _ => return Ok(Guard(file)),
            }
        }
    }
}

/// Leads the process group of one worker.
pub(super) struct Keeper {
    child: Child,
    group: Pid,
    guard: File,
}

impl Keeper {
    pub(super) fn start(guard: &Guard) -> Result<Keeper> {
        let cannot = |e: io::Error| {
            Failure::new(Exit::Unreachable, "cannot start a process for a worker").why(e.to_string())
        };
        let guard = guard.0.try_clone().map_err(cannot)?;
        let (child, group) = Keeper::spawn(&guard).map_err(cannot)?;
        Ok(Keeper { child, group, guard })
    }

    fn spawn(guard: &File) -> io::Result<(Child, Pid)> {
        let child = Command::new("sh")
            .args(["-c", "read -r _; kill -s KILL 0"])
            .stdin(Stdio::piped())
            .stdout(guard.try_clone()?)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok((child, group.ok_or_else(|| io::Error::other("a process without an id"))?))
    }

    /// Ends whatever runs in the group.
    pub(super) fn end_workers(&mut self) -> Result<()> {
        self.kill();
        let (child, group) = Keeper::spawn(&self.guard).map_err(|e| {
            Failure::new(Exit::Unreachable, "cannot start a process for a worker").why(e.to_string())
        })?;
        (self.child, self.group) = (child, group);
        Ok(())
    }

    fn kill(&mut self) {
        // The keeper is in the group, so that its number is nobody else's until it is waited for.
        let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Most bytes that are kept of what a worker printed and nobody has taken.
const OUT_BYTES_MAX: usize = 4 * annals::limits::BATCH_BYTES_MAX;
/// How long after the end of a process its pipes can stay open by a child that it left behind, at most.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A worker's process, with its pipes.
pub(super) struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    to_write: VecDeque<u8>,
    close_stdin: bool,
    stdout: Option<ChildStdout>,
    out: Vec<u8>,
    stderr: Option<ChildStderr>,
    err: Tail,
}

/// What a worker did since it was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    Runs,
    Ended(ExitStatus),
    /// It printed more than anything that could be appended.
    TooMuch,
}

impl Worker {
    /// Starts a command in the keeper's group.
    pub(super) fn start(
        keeper: &mut Keeper,
        ctx: &Context,
        command: &str,
        env: &[(&'static str, String)],
    ) -> Result<Worker> {
        let spawn = |keeper: &Keeper| -> io::Result<Worker> {
            let mut child = Command::new("sh")
                .args(["-c", command])
                .envs(env.iter().map(|(name, value)| (name, value)))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(keeper.group.as_raw_nonzero().get())
                .spawn()?;
            let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
            let never_wait = |fd: &dyn AsFd| -> io::Result<()> {
                let flags = rustix::fs::fcntl_getfl(fd.as_fd())?;
                Ok(rustix::fs::fcntl_setfl(fd.as_fd(), flags | OFlags::NONBLOCK)?)
            };
            stdin.iter().try_for_each(|fd| never_wait(fd))?;
            stdout.iter().try_for_each(|fd| never_wait(fd))?;
            stderr.iter().try_for_each(|fd| never_wait(fd))?;
            let err = Tail { said: !ctx.quiet, ..Tail::default() };
            let (to_write, out) = (VecDeque::new(), Vec::new());
            Ok(Worker { child, stdin, to_write, close_stdin: false, stdout, out, stderr, err })
        };
        let started = spawn(keeper).or_else(|_| {
            // Somebody may have killed the keeper: with another one it is tried once more.
            keeper.end_workers().map_err(|e| io::Error::other(e.to_string()))?;
            spawn(keeper)
        });
        started.map_err(|e| {
            Failure::new(Exit::Unreachable, "cannot start a worker")
                .why(e.to_string())
                .next("see to the cause, such as a limit of processes, then run it again")
        })
    }

    /// Gives it bytes to read.
    pub(super) fn give(&mut self, bytes: &[u8]) {
        self.to_write.extend(bytes);
    }

    /// Closes its stdin behind what it was given.
    pub(super) fn close(&mut self) {
        self.close_stdin = true;
        if self.to_write.is_empty() {
            self.stdin = None;
        }
    }

    /// Whether it reads what it is given.
    pub(super) fn reads(&self) -> bool {
        self.stdin.is_some()
    }

    /// Moves bytes for at most so long, until something came or it ended.
    pub(super) fn pump(&mut self, wait: Duration) -> Result<State> {
        self.write();
        let ready = self.poll(wait.min(LOOK_EVERY.max(Duration::from_millis(1))));
        ready.map_err(|e| Failure::new(Exit::Unreachable, "cannot wait for a worker").why(e.to_string()))?;
        self.write();
        let before = self.out.len();
        read_into(&mut self.stdout, |bytes| self.out.extend_from_slice(bytes));
        read_into(&mut self.stderr, |bytes| self.err.add(bytes));
        if self.out.len() > OUT_BYTES_MAX {
            return Ok(State::TooMuch);
        }
        if self.out.len() > before {
            return Ok(State::Runs);
        }
        match self.child.try_wait() {
            Ok(None) => Ok(State::Runs),
            Ok(Some(status)) => {
                // What it wrote before its end.
                read_into(&mut self.stdout, |bytes| self.out.extend_from_slice(bytes));
                read_into(&mut self.stderr, |bytes| self.err.add(bytes));
                Ok(State::Ended(status))
            }
            Err(e) => Err(Failure::new(Exit::Unreachable, "cannot wait for a worker").why(e.to_string())),
        }
    }

    fn poll(&self, wait: Duration) -> io::Result<()> {
        let mut fds = Vec::with_capacity(3);
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.to_write.is_empty()) {
            fds.push(PollFd::new(stdin, PollFlags::OUT));
        }
        fds.extend(self.stdout.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        fds.extend(self.stderr.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        // A process that has closed its pipes is about to end, as a rule.
        let wait = if fds.is_empty() { wait.min(Duration::from_micros(500)) } else { wait };
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn write(&mut self) {
        while let Some(stdin) = self.stdin.as_mut().filter(|_| !self.to_write.is_empty()) {
            let (front, _) = self.to_write.as_slices();
            match stdin.write(front) {
                Ok(n) => drop(self.to_write.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // It does not read. That is its own affair, unless it has to.
                Err(_) => {
                    self.to_write.clear();
                    self.stdin = None;
                }
            }
        }
        if self.close_stdin && self.to_write.is_empty() {
            self.stdin = None;
        }
    }

    /// The whole lines that it printed, blank ones left out.
    pub(super) fn lines(&mut self) -> Vec<Vec<u8>> {
        let Some(end) = memchr::memrchr(b'\n', &self.out) else { return Vec::new() };
        let rest = self.out.split_off(end + 1);
        let whole = std::mem::replace(&mut self.out, rest);
        let lines = whole.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty());
        lines.map(<[u8]>::to_vec).collect()
    }

    /// Everything that it printed.
    pub(super) fn printed(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// The last lines that it wrote to stderr.
    pub(super) fn last_lines(&mut self) -> Vec<String> {
        self.err.lines()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Its keeper ends the rest of its group.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads what is there, and closes the pipe at its end.
fn read_into<R: Read>(from: &mut Option<R>, mut take: impl FnMut(&[u8])) {
    // Whoever prints without end must not keep this from looking at the time.
    const AT_ONCE: usize = 64;
    let mut buffer = [0; 16 * 1024];
    for _ in 0..AT_ONCE {
        let Some(pipe) = from else { return };
        match pipe.read(&mut buffer) {
            Ok(0) => *from = None,
            Ok(n) => take(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => *from = None,
        }
    }
}

/// The last lines of a worker's stderr, each said here too.
#[derive(Default)]
struct Tail {
    said: bool,
    last: VecDeque<String>,
    line: Vec<u8>,
}

impl Tail {
    const LINES: usize = 16;
    const LINE_BYTES: usize = 2000;

    fn add(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ends) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = Tail::LINE_BYTES.saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if self.said {
            crate::context::say(crate::output::printable(&line));
        }
        if !line.trim().is_empty() {
            if self.last.len() == Tail::LINES {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
    }

    fn lines(&mut self) -> Vec<String> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.last.drain(..).collect()
    }
}

/// A failure as the last lines of stderr tell it; `name` and `message` where they do not.
pub(super) fn failure(name: &str, message: &str, last: &[String]) -> WhyNot {
    let found = last.iter().enumerate().rev().find_map(|(n, line)| name_in(line).map(|found| (n, found)));
    let (name, message, used) = match (found, last.last()) {
        (Some((n, (name, message))), _) => (name, message, Some(n)),
        (None, Some(line)) => (name, line.trim(), Some(last.len() - 1)),
        (None, None) => (name, message, None),
    };
    let others = last.iter().enumerate().filter(|(n, _)| Some(*n) != used);
    let chain = others.map(|(_, line)| line.clone()).collect();
    WhyNot { name: name.to_owned(), message: message.to_owned(), chain }
}

/// How a process ended, as a failure's name and message.
pub(super) fn described(status: ExitStatus) -> (String, String) {
    match (status.code(), status.signal()) {
        (Some(code), _) => (format!("Exit{code}"), format!("it exited with status {code}")),
        (None, Some(signal)) => (format!("Signal{signal}"), format!("it was ended by signal {signal}")),
        (None, None) => ("WorkerDied".to_owned(), status.to_string()),
    }
}

/// Fails where the first word of a command is one that the shell cannot find, so that a typing error does not park events.
pub(super) fn check_command(command: &str) -> Result<()> {
    let first = command.split_whitespace().next().unwrap_or_default();
    if first.is_empty() {
        return Err(Failure::usage("the command to run is empty").next("name it with --exec"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '+');
    if !first.chars().all(plain) {
        return Ok(());
    }
    let found = Command::new("sh")
        .args(["-c", "command -v \"$1\"", "sh", first])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|e| Failure::new(Exit::Unreachable, "cannot run a shell").why(e.to_string()))?;
    if found.success() {
        return Ok(());
    }
    Err(Failure::usage(format!("the shell finds no command `{first}`"))
        .next("mind the path, and whether it may be run"))
}

/// A moment from now on.
#[expect(clippy::disallowed_methods, reason = "how long a worker takes is no part of the store")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_failure_is_named_by_the_last_line_that_names_an_error() {
        let python =
            lines(&["Traceback (most recent call last):", "  File \"x.py\"", "ValueError: bad order"]);
        let why = failure("Exit1", "it exited with status 1", &python);
        assert_eq!((&*why.name, &*why.message), ("ValueError", "bad order"));
        assert_eq!(why.chain, python[..2]);
        let node = lines(&["TypeError: x is undefined", "    at f (x.js:1)"]);
        let why = failure("Exit1", "", &node);
        assert_eq!((&*why.name, &*why.message), ("TypeError", "x is undefined"));
        let why = failure("Exit7", "it exited with status 7", &lines(&["first", "disk gone"]));
        assert_eq!((&*why.name, &*why.message), ("Exit7", "disk gone"));
        assert_eq!(why.chain, ["first"]);
        let why = failure("Signal9", "it was ended by signal 9", &[]);
        assert_eq!((&*why.name, &*why.message, why.chain.len()), ("Signal9", "it was ended by signal 9", 0));
    }

    #[test]
    fn only_the_last_lines_of_stderr_are_kept_and_a_long_one_is_cut() {
        let mut tail = Tail::default();
        (0..100).for_each(|n| tail.add(format!("line {n}\n").as_bytes()));
        tail.add(&[b'x'; 100_000]);
        let kept = tail.lines();
        assert_eq!(kept.len(), Tail::LINES);
        assert_eq!(kept[0], "line 85");
        assert_eq!(kept[Tail::LINES - 1].len(), Tail::LINE_BYTES);
    }

    #[test]
    fn a_command_that_is_not_there_is_told_before_any_event() {
        for good in ["cat", "exit 3", "if true; then cat; fi", "A=1 cat", "\"my command\"", "/bin/sh -c x"] {
            assert!(check_command(good).is_ok(), "{good}");
        }
        for bad in ["", "  ", "no-such-command-anywhere --x", "./not/here"] {
            assert!(check_command(bad).is_err(), "{bad:?} was taken");
        }
    }
}
