//! A running `annals consume`: what it and its workers say on stderr, line by line, with a bound on every wait.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// No wait lasts longer; one that does fails its test.
pub(crate) const BOUND: Duration = Duration::from_mins(5);

/// A command that says on stderr what happens.
pub(crate) struct Owner {
    child: Child,
    lines: Receiver<String>,
    pub(crate) said: Vec<String>,
}

impl Owner {
    /// Starts it, without stdin, its stdout going nowhere.
    pub(crate) fn start(command: &mut Command) -> Owner {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let (send, lines) = channel();
        let read = move || stderr.lines().map_while(Result::ok).all(|line| send.send(line).is_ok());
        std::thread::Builder::new().spawn(read).expect("a thread");
        Owner { child, lines, said: Vec::new() }
    }

    /// Waits for a line that holds this.
    #[track_caller]
    pub(crate) fn says(&mut self, part: &str) {
        assert!(self.says_unless_it_ends(part), "it ended without {part:?}: {:#?}", self.said);
    }

    /// The same; whether such a line came before its end.
    #[track_caller]
    pub(crate) fn says_unless_it_ends(&mut self, part: &str) -> bool {
        loop {
            match self.lines.recv_timeout(BOUND) {
                Ok(line) => {
                    let found = line.contains(part);
                    self.said.push(line);
                    if found {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("it did not say {part:?}: {:#?}", self.said),
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u64 {
        self.child.id().into()
    }

    /// The next line, where there is one yet to come.
    pub(crate) fn rest(&self) -> Result<String, RecvTimeoutError> {
        self.lines.recv_timeout(BOUND)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a process id"), signal).expect("it runs");
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("it runs");
    }

    /// Waits for its end: its exit code, `None` where a signal ended it.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> Option<i32> {
        // Its stderr ends with it and its workers.
        loop {
            match self.lines.recv_timeout(BOUND) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it did not end: {:#?}", self.said),
            }
        }
        let panicked = self.said.iter().any(|line| line.contains("panicked"));
        assert!(!panicked, "{:#?}", self.said);
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Only where a test failed half-way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A named pipe, by which a worker is held up, or by which its death is seen.
pub(crate) struct Fifo(PathBuf);

impl Fifo {
    pub(crate) fn make(path: PathBuf) -> Fifo {
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        Fifo(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Lets go whoever reads it.
    pub(crate) fn let_go(&self) {
        #[expect(clippy::disallowed_methods, reason = "a pipe of the test's")]
        std::fs::write(&self.0, "go\n").expect("somebody reads");
    }

    /// Waits until everybody who has it open to write is gone; begins at once, so that nobody opens it in vain.
    pub(crate) fn ends(&self) -> Receiver<()> {
        let (send, receive) = channel();
        let path = self.0.clone();
        let wait = move || {
            #[expect(clippy::disallowed_methods, reason = "a pipe of the test's")]
            let mut file = std::fs::File::open(path).expect("a pipe");
            let read = file.read_to_end(&mut Vec::new());
            read.is_ok() && send.send(()).is_ok()
        };
        std::thread::Builder::new().spawn(wait).expect("a thread");
        receive
    }
}
