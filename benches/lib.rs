//! What the benches share: workloads, clocks, and the way figures are printed.
//!
//! A figure says its durability mode, batch and payload. Comparisons are ratios of medians in one run, in alternation, since
//! the machine may be shared; processor time is given beside wall time, which noise touches less.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure wall time and print")]

use std::time::{Duration, Instant};

/// Events of a workload: which stream each goes to, and what is in it.
pub struct Workload {
    streams: Vec<String>,
    payload: Vec<u8>,
    state: u64,
}

impl Workload {
    /// A workload over so many streams `order-<n>`, with payloads of this many bytes that look like JSON.
    #[must_use]
    pub fn new(streams: usize, payload_bytes: usize) -> Self {
        let mut payload = br#"{"customer":"c-1842","items":["#.to_vec();
        let mut state = 7;
        while payload.len() + 2 < payload_bytes {
            payload.push(b"0123456789abcdef"[(next(&mut state) >> 60) as usize]);
        }
        payload.extend_from_slice(b"]}");
        payload.truncate(payload_bytes);
        Workload { streams: (0..streams).map(|n| format!("order-{n}")).collect(), payload, state: 42 }
    }

    /// The next event's stream, picked evenly, and its payload.
    pub fn event(&mut self) -> (&str, &[u8]) {
        let pick = (next(&mut self.state) >> 33) as usize % self.streams.len();
        (&self.streams[pick], &self.payload)
    }

    /// The number of a stream picked evenly.
    pub fn pick(&mut self) -> usize {
        (next(&mut self.state) >> 33) as usize % self.streams.len()
    }

    /// The numbers of so many streams.
    pub fn picks(&mut self, count: usize) -> impl Iterator<Item = usize> + use<> {
        (0..count).map(|_| self.pick()).collect::<Vec<_>>().into_iter()
    }

    /// The streams' names.
    #[must_use]
    pub fn streams(&self) -> &[String] {
        &self.streams
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// A step of a linear congruential generator (Knuth's constants): the same numbers in every run.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state
}

/// Wall and processor time of something.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// Wall time.
    pub wall: Duration,
    /// Processor time of all of the process's threads.
    pub cpu: Duration,
}

/// Measures.
pub fn measure<T>(what: impl FnOnce() -> T) -> (Took, T) {
    let (wall, cpu) = (Instant::now(), cpu_time());
    let result = what();
    (Took { wall: wall.elapsed(), cpu: cpu_time() - cpu }, result)
}

/// Processor time of this process so far.
#[must_use]
pub fn cpu_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Resident memory that is not backed by files, in bytes; 0 where the system does not tell.
#[must_use]
pub fn resident_anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap_or_default();
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    kib * 1024
}

/// Bytes that a directory takes on disk.
#[must_use]
pub fn disk_usage(dir: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if let Ok(meta) = entry.metadata() {
            bytes += if meta.is_dir() { disk_usage(&entry.path()) } else { meta.blocks() * 512 };
        }
    }
    bytes
}

/// The middle one.
pub fn median<T: Copy + PartialOrd>(values: &mut [T]) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("figures are numbers"));
    values[values.len() / 2]
}

/// A number from the environment, so that a bench can be made smaller or larger.
#[must_use]
pub fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// A temporary directory where the benches' files go: `ANNALS_BENCH_DIR`, or the system's.
#[must_use]
pub fn scratch() -> tempfile::TempDir {
    match std::env::var_os("ANNALS_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .expect("a temporary directory can be made")
}
