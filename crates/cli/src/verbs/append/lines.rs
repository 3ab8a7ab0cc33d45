//! Lines from a reader, without copying them and without waiting for more than is asked.
//!
//! # Invariants
//! - A line is handed out as soon as its line feed has been read; nothing is read ahead of need when lines are there.
//! - Memory is bounded: a line longer than the limit is passed over up to its end, and reported as too long; so are
//!   the lines that were asked for together, where they are longer than their limit together.
//! - The last line needs no line feed.
//!
//! Elsewhere: what a line means (`bulk`, `event_json`).

use std::io::{self, Read};
use std::ops::Range;

/// A line, as a range of [`Lines::bytes`], or one that was too long to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Where it is, without its line feed.
    At(Range<usize>),
    /// Its length was beyond the limit.
    TooLong,
}

/// Cuts what a reader gives into lines.
pub(crate) struct Lines<R> {
    from: R,
    buffer: Vec<u8>,
    /// What was read and not handed out: `buffer[begin..end]`.
    begin: usize,
    end: usize,
    /// Up to here there is no line feed.
    scanned: usize,
    ended: bool,
    passing_over: bool,
    limits: LineLimits,
}

/// How long lines may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineLimits {
    /// One line.
    pub(crate) line_bytes_max: usize,
    /// The lines asked for at a time.
    pub(crate) together_bytes_max: usize,
}

const READ_BYTES: usize = 256 * 1024;

impl<R: Read> Lines<R> {
    /// Cuts lines of at most such lengths.
    pub(crate) fn new(from: R, limits: LineLimits) -> Self {
        Lines {
            from,
            buffer: vec![0; READ_BYTES],
            begin: 0,
            end: 0,
            scanned: 0,
            ended: false,
            passing_over: false,
            limits,
        }
    }

    /// The bytes that lines are ranges of, until lines are asked for again.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Puts the next `count` lines into `lines`; fewer only at the end of the input, and none behind it.
    ///
    /// `is_blank` tells of lines to leave out, by their bytes; `seen` counts every line for messages.
    pub(crate) fn next(
        &mut self,
        count: usize,
        is_blank: fn(&[u8]) -> bool,
        seen: &mut u64,
        lines: &mut Vec<(u64, Line)>,
    ) -> io::Result<()> {
        lines.clear();
        // Lines are kept as distances from here, since reading more may move the bytes.
        let mut at = 0;
        while lines.len() < count {
            let unread = &self.buffer[self.scanned..self.end];
            if let Some(feed) = memchr::memchr(b'\n', unread).map(|i| self.scanned + i) {
                let line = self.begin + at..feed;
                self.scanned = feed + 1;
                at = self.scanned - self.begin;
                *seen += 1;
                if std::mem::take(&mut self.passing_over) || line.len() > self.limits.line_bytes_max {
                    lines.push((*seen, Line::TooLong));
                } else if !is_blank(&self.buffer[line.clone()]) {
                    lines.push((*seen, Line::At(line.start - self.begin..line.end - self.begin)));
                }
                continue;
            }
            self.scanned = self.end;
            if self.end - self.begin - at > self.limits.line_bytes_max {
                // What was read of it is let go; the rest is passed over up to its end.
                self.passing_over = true;
                self.end = self.begin + at;
                self.scanned = self.end;
            }
            if self.ended {
                let line = self.begin + at..self.end;
                if self.passing_over || !line.is_empty() {
                    *seen += 1;
                    if std::mem::take(&mut self.passing_over) {
                        lines.push((*seen, Line::TooLong));
                    } else if !is_blank(&self.buffer[line.clone()]) {
                        lines.push((*seen, Line::At(line.start - self.begin..line.end - self.begin)));
                    }
                    at = self.end - self.begin;
                }
                break;
            }
            let kept: usize =
                lines.iter().map(|(_, line)| if let Line::At(at) = line { at.len() } else { 0 }).sum();
            if kept > self.limits.together_bytes_max {
                lines.iter_mut().for_each(|(_, line)| *line = Line::TooLong);
            }
            if lines.iter().all(|(_, line)| *line == Line::TooLong) {
                // Nothing before this line is needed any more.
                self.begin += at;
                at = 0;
            }
            self.read_more()?;
        }
        for (_, line) in lines.iter_mut() {
            if let Line::At(range) = line {
                *range = range.start + self.begin..range.end + self.begin;
            }
        }
        self.begin += at;
        Ok(())
    }

    fn read_more(&mut self) -> io::Result<()> {
        if self.begin > 0 {
            self.buffer.copy_within(self.begin..self.end, 0);
            self.end -= self.begin;
            self.scanned -= self.begin;
            self.begin = 0;
        }
        if self.buffer.len() - self.end < READ_BYTES / 2 {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(n) => self.end += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte at a time, or all at once.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(buf.len());
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn cut(input: &[u8], step: usize, count: usize, most: usize) -> Vec<Vec<(u64, Option<String>)>> {
        let mut lines =
            Lines::new(Drip(input, step), LineLimits { line_bytes_max: most, together_bytes_max: 1_000 });
        let (mut seen, mut found, mut batches) = (0, Vec::new(), Vec::new());
        loop {
            lines.next(count, <[u8]>::is_empty, &mut seen, &mut found).expect("memory can be read");
            if found.is_empty() {
                return batches;
            }
            let text = |line: &Line| match line {
                Line::At(range) => Some(String::from_utf8_lossy(&lines.bytes()[range.clone()]).into_owned()),
                Line::TooLong => None,
            };
            batches.push(found.iter().map(|(n, line)| (*n, text(line))).collect());
        }
    }

    #[test]
    fn lines_are_cut_alike_however_the_bytes_come() {
        let expected: Vec<(u64, Option<String>)> =
            [(1, "one"), (3, "three"), (4, "x")].map(|(n, t)| (n, Some(t.to_owned()))).to_vec();
        for step in [1, 2, 3, 100] {
            let singly: Vec<_> = cut(b"one\n\nthree\nx", step, 1, 100).concat();
            assert_eq!(singly, expected, "step {step}");
            assert_eq!(
                cut(b"one\n\nthree\nx\n", step, 2, 100),
                [expected[..2].to_vec(), expected[2..].to_vec()]
            );
        }
        assert!(cut(b"", 1, 1, 100).is_empty());
        assert!(cut(b"\n\n", 1, 1, 100).is_empty());
    }

    #[test]
    fn a_line_beyond_the_limit_is_reported_and_those_around_it_are_kept() {
        let input = format!("a\n{}\nb\n{}", "x".repeat(1_000_000), "y".repeat(11));
        for (step, count) in [(1_000, 1), (999, 3), (10_000_000, 4)] {
            let lines: Vec<_> = cut(input.as_bytes(), step, count, 10).concat();
            assert_eq!(
                lines,
                [(1, Some("a".into())), (2, None), (3, Some("b".into())), (4, None)],
                "step {step}"
            );
        }
    }

    #[test]
    fn lines_that_are_too_long_together_are_not_kept() {
        let line = format!("{}\n", "x".repeat(90));
        let batches = cut(line.repeat(25).as_bytes(), 10, 20, 100);
        assert_eq!(batches.len(), 2);
        assert_eq!(batches[0].len(), 20);
        assert!(batches[0].iter().any(|(_, line)| line.is_none()), "{batches:?}");
        assert!(batches[1].iter().all(|(_, line)| line.is_some()), "{batches:?}");
    }

    #[test]
    fn a_line_that_is_there_is_handed_out_before_more_is_read() {
        struct Once(bool);
        impl Read for Once {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                assert!(!std::mem::replace(&mut self.0, true), "read again although a line was there");
                buf[..4].copy_from_slice(b"a\nb\n");
                Ok(4)
            }
        }
        let mut lines = Lines::new(Once(false), LineLimits { line_bytes_max: 100, together_bytes_max: 100 });
        let (mut seen, mut found) = (0, Vec::new());
        for expected in [b"a", b"b"] {
            lines.next(1, <[u8]>::is_empty, &mut seen, &mut found).expect("memory can be read");
            assert!(
                matches!(&found[..], [(_, Line::At(range))] if &lines.bytes()[range.clone()] == expected)
            );
        }
    }
}
