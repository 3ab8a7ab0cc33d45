//! The system's randomness, fetched in pieces so that a few bytes for an event id do not cost a call each.
//!
//! # Invariants
//! - No byte is given out twice, also not by a process and its forked child: the store of bytes lies in memory that the
//!   system wipes in a child, or, where there is no such memory, is bound to the number of the process.
//! - All bytes come from the system's own generator. Where it has none, the process stops: ids that can be guessed or
//!   repeated would break promises silently.
//!
//! Elsewhere: who draws (event ids, salts, seeds), randomness from a printed seed (the tests).

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::sync::OnceLock;

use crate::env::Entropy;
use crate::map::WipedOnFork;

/// The system's randomness.
///
/// Each thread has bytes of its own, so that drawing takes no lock, waits for nobody, and works in a forked child.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    /// Where the system has no randomness to give.
    fn fill(&self, buf: &mut [u8]) {
        thread_local! {
            static POOL: RefCell<Option<Pool>> = const { RefCell::new(None) };
        }
        if buf.len() > DRAW_BYTES_MAX {
            return fill_from_system(buf);
        }
        let drawn = POOL.try_with(|pool| pool.borrow_mut().get_or_insert_with(Pool::new).draw(buf));
        if drawn.is_err() {
            // The thread is ending and has given up its bytes.
            fill_from_system(buf);
        }
    }
}

/// Bytes fetched ahead: first how many are left, then they; they are given out from the back.
///
/// The count lies beside the bytes, so that where a child finds zeros it finds none left.
enum Pool {
    Wiped(WipedOnFork),
    Bound { process: u32, bytes: Box<[u8]> },
}

impl Pool {
    fn new() -> Pool {
        match WipedOnFork::new(POOL_BYTES) {
            Ok(bytes) => Pool::Wiped(bytes),
            Err(_) => Pool::bound(),
        }
    }

    fn bound() -> Pool {
        Pool::Bound { process: std::process::id(), bytes: vec![0; POOL_BYTES].into_boxed_slice() }
    }

    fn draw(&mut self, buf: &mut [u8]) {
        let bytes: &mut [u8] = match self {
            Pool::Wiped(bytes) => bytes,
            Pool::Bound { process, bytes } => {
                if *process != std::process::id() {
                    *process = std::process::id();
                    bytes.fill(0);
                }
                bytes
            }
        };
        let (count, bytes) = bytes.split_at_mut(COUNT_BYTES);
        let mut left = usize::from(u16::from_le_bytes([count[0], count[1]]));
        if left < buf.len() {
            fill_from_system(bytes);
            left = bytes.len();
        }
        let rest = left - buf.len();
        buf.copy_from_slice(&bytes[rest..left]);
        count.copy_from_slice(&(rest as u16).to_le_bytes());
    }
}

const COUNT_BYTES: usize = size_of::<u16>();
const POOL_BYTES: usize = 4096;

/// More than this at once is fetched for itself.
const DRAW_BYTES_MAX: usize = 256;

fn fill_from_system(buf: &mut [u8]) {
    #[cfg(target_os = "linux")]
    if fill_by_call(buf).is_ok() {
        return;
    }
    fill_from_device(buf).expect("the system gives random bytes; without them no id would be safe");
}

#[cfg(target_os = "linux")]
fn fill_by_call(mut buf: &mut [u8]) -> rustix::io::Result<()> {
    use rustix::rand::{GetRandomFlags, getrandom};
    while !buf.is_empty() {
        let n = rustix::io::retry_on_intr(|| getrandom(&mut *buf, GetRandomFlags::empty()))?;
        buf = &mut buf[n..];
    }
    Ok(())
}

/// For macOS, and for a Linux that forbids the call. The device is kept open, so that running out of descriptors later
/// does no harm.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
fn fill_from_device(buf: &mut [u8]) -> io::Result<()> {
    static DEVICE: OnceLock<File> = OnceLock::new();
    let mut device = match DEVICE.get() {
        Some(device) => device,
        None => {
            let opened = File::open("/dev/urandom")?;
            DEVICE.get_or_init(|| opened)
        }
    };
    device.read_exact(buf)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_do_not_repeat_over_many_refills() {
        let entropy = SystemEntropy;
        let numbers: HashSet<u64> = (0..10_000).map(|_| entropy.next_u64()).collect();
        assert_eq!(numbers.len(), 10_000);
    }

    #[test]
    fn threads_that_share_it_get_different_numbers() {
        let entropy = SystemEntropy;
        let mut numbers: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..5_000).map(|_| entropy.next_u64()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20_000);
    }

    #[test]
    fn every_length_is_filled_to_its_end() {
        let entropy = SystemEntropy;
        for len in [0, 1, 10, DRAW_BYTES_MAX, DRAW_BYTES_MAX + 1, 3 * POOL_BYTES] {
            // A byte stays zero in 40 draws by chance about once in 2^320.
            let mut seen = vec![0_u8; len];
            for _ in 0..40 {
                let mut buf = vec![0; len];
                entropy.fill(&mut buf);
                seen.iter_mut().zip(buf).for_each(|(seen, byte)| *seen |= byte);
            }
            assert!(seen.iter().all(|seen| *seen != 0), "length {len}");
        }
    }

    #[test]
    fn the_device_gives_different_bytes_each_time() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        fill_from_device(&mut a).unwrap();
        fill_from_device(&mut b).unwrap();
        assert_ne!(a, b);
    }

    #[test]
    fn a_pool_that_was_wiped_is_filled_anew_before_it_gives_anything() {
        let mut pool = Pool::new();
        if cfg!(target_os = "linux") {
            assert!(matches!(pool, Pool::Wiped(_)), "Linux since 4.14 has memory that is wiped on fork");
        }
        pool.draw(&mut [0; 16]);
        match &mut pool {
            Pool::Wiped(bytes) => bytes.fill(0),
            Pool::Bound { bytes, .. } => bytes.fill(0),
        }
        let mut buf = [0; 16];
        pool.draw(&mut buf);
        assert_ne!(buf, [0; 16]);
    }

    #[test]
    fn a_pool_bound_to_another_process_gives_nothing_of_what_that_one_had() {
        let mut pool = Pool::bound();
        pool.draw(&mut [0; 16]);
        let Pool::Bound { process, bytes } = &mut pool else { panic!("bound") };
        *process ^= 1;
        let before = bytes.clone();
        let mut buf = [0; 16];
        pool.draw(&mut buf);
        let Pool::Bound { process, bytes } = &pool else { panic!("bound") };
        assert_eq!(*process, std::process::id());
        assert!(!before.windows(buf.len()).any(|window| window == buf));
        assert_ne!(*before, **bytes);
    }
}
