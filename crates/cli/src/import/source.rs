//! Opens what an import reads: a file or standard input, gzipped or not, as UTF-8 text with its lines counted.
//!
//! # Invariants
//! - Gzip is recognised by its first bytes, never by the name; several members behind each other are read as one.
//! - What the file's readers ask for at once is bounded by [`ROW_BYTES_MAX`], so that no file can exhaust the memory.
//! - A text in another encoding (UTF-16 by its mark) is refused instead of being read as rubbish.
//!
//! Elsewhere: what the text means (`jsonl`, `csv`, `xes`).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals::{Error, ErrorKind, Result};
use flate2::bufread::MultiGzDecoder;

/// The most bytes of one row: what is longer is a bad row and is passed over without being kept.
pub(crate) const ROW_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How much is read from the system, and unpacked, at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// What rows are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values under a header.
    Csv,
    /// Tab-separated values under a header.
    Tsv,
    /// IEEE 1849 event log (XML).
    Xes,
}

/// An open source.
pub(crate) struct Source {
    /// What it says, unpacked.
    pub(crate) text: TextReader,
    /// Bytes read from the file so far, still packed; shared with whoever shows the progress.
    pub(crate) bytes_read: Arc<AtomicU64>,
    /// Bytes of the file, where it is one.
    pub(crate) bytes_total: Option<u64>,
}

/// The name that stands for a file in derived ids: without its folders, and without `.gz`, since packing a file does
/// not change what it says.
pub(crate) fn source_name(path: &Path) -> String {
    let name = path.file_name().map_or_else(|| path.to_string_lossy(), |n| n.to_string_lossy());
    name.strip_suffix(".gz").unwrap_or(&name).to_owned()
}

/// The format that a file's name promises.
pub(crate) fn format_of(path: &Path) -> Option<Format> {
    let name = source_name(path).to_lowercase();
    let extension = name.rsplit_once('.')?.1;
    Some(match extension {
        "jsonl" | "ndjson" | "json" => Format::Jsonl,
        "csv" => Format::Csv,
        "tsv" | "tab" => Format::Tsv,
        "xes" => Format::Xes,
        _ => return None,
    })
}

/// Opens a file, or standard input for `-`.
///
/// # Errors
/// `NotFound` where there is no such file, `Invalid` for a folder or another encoding, those of the operating system.
pub(crate) fn open(path: &Path) -> Result<Source> {
    let shown = path.display();
    let bytes_read = Arc::new(AtomicU64::new(0));
    let (raw, bytes_total): (Box<dyn Read + Send>, Option<u64>) = if path == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        #[expect(clippy::disallowed_methods, reason = "the file to import is no part of a store")]
        let file = File::open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!("there is no file `{shown}` to import")),
            _ => Error::io(format!("`{shown}` cannot be opened"), e),
        })?;
        let meta = file.metadata().map_err(|e| Error::io(format!("`{shown}` cannot be looked at"), e))?;
        if meta.is_dir() {
            return Err(Error::invalid(format!("`{shown}` is a folder, not a file to import")));
        }
        let total = meta.is_file().then_some(meta.len());
        (Box::new(file), total)
    };
    let text = TextReader::new(Counted { inner: raw, bytes: bytes_read.clone() })
        .map_err(|e| read_error(&e).context_before(format!("`{shown}`")))?;
    Ok(Source { text, bytes_read, bytes_total })
}

/// What a failed read means to the caller: what is wrong with the file is `Invalid`, the rest is the system's.
pub(crate) fn read_error(e: &io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::invalid("the gzip data ends in the middle: the file was cut off, fetch it again")
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Error::invalid(e.to_string()),
        kind => Error::with_source(ErrorKind::Io, "reading failed", io::Error::new(kind, e.to_string())),
    }
}

/// Counts the bytes that come from the file.
struct Counted {
    inner: Box<dyn Read + Send>,
    bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Unpacked text, read as bytes, with the lines counted.
pub(crate) struct TextReader {
    inner: BufReader<Box<dyn Read + Send>>,
    line: u64,
}

impl TextReader {
    /// Looks at the first bytes and unpacks from there on; a byte order mark of UTF-8 is passed over.
    ///
    /// # Errors
    /// Those of `raw`; `InvalidInput` for UTF-16.
    pub(crate) fn new(raw: impl Read + Send + 'static) -> io::Result<TextReader> {
        let (first, raw) = look_ahead(raw)?;
        let (first, inner) = if first.starts_with(&[0x1f, 0x8b]) {
            let unpacked = MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, raw));
            look_ahead(unpacked)?
        } else {
            (first, raw)
        };
        let mut reader = TextReader { inner: BufReader::with_capacity(BUFFER_BYTES, inner), line: 1 };
        let utf16 = first.starts_with(&[0xff, 0xfe]) || first.starts_with(&[0xfe, 0xff]);
        let bom = first.starts_with(&[0xef, 0xbb, 0xbf]);
        if utf16 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the file is UTF-16; convert it first, for instance with `iconv -f UTF-16 -t UTF-8`",
            ));
        }
        if bom {
            io::copy(&mut Read::take(&mut reader, 3), &mut io::sink())?;
        }
        Ok(reader)
    }

    /// The line that the next byte stands in, from 1.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// Reads up to and without the next line feed (and the carriage return before it) into `out`. What is beyond
    /// [`ROW_BYTES_MAX`] is passed over.
    pub(crate) fn read_line(&mut self, out: &mut Vec<u8>) -> io::Result<Line> {
        out.clear();
        let mut too_long = false;
        let mut any = false;
        loop {
            let available = match self.fill_buf() {
                Ok(available) => available,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if available.is_empty() {
                break;
            }
            any = true;
            let end = memchr::memchr(b'\n', available);
            let taken = end.unwrap_or(available.len());
            if out.len() + taken > ROW_BYTES_MAX {
                too_long = true;
                out.clear();
            }
            if !too_long {
                out.extend_from_slice(&available[..taken]);
            }
            self.consume(taken + usize::from(end.is_some()));
            if end.is_some() {
                break;
            }
        }
        if out.last() == Some(&b'\r') {
            out.pop();
        }
        Ok(match (any, too_long) {
            (false, _) => Line::End,
            (true, false) => Line::Whole,
            (true, true) => Line::TooLong,
        })
    }
}

/// What [`TextReader::read_line`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line.
    Whole,
    /// A line that was too long to keep.
    TooLong,
    /// Nothing more.
    End,
}

impl Read for TextReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for TextReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        let buffer = self.inner.buffer();
        self.line += memchr::memchr_iter(b'\n', &buffer[..n.min(buffer.len())]).count() as u64;
        self.inner.consume(n);
    }
}

/// The first four bytes, fewer where there are no more (a pipe may give them one by one), and all of `raw` once more.
fn look_ahead(mut raw: impl Read + Send + 'static) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut first = Vec::with_capacity(4);
    (&mut raw).take(4).read_to_end(&mut first)?;
    Ok((first.clone(), Box::new(io::Cursor::new(first).chain(raw))))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    pub(crate) fn text_of(bytes: impl Into<Vec<u8>>) -> TextReader {
        TextReader::new(io::Cursor::new(bytes.into())).expect("readable")
    }

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(bytes).expect("in memory");
        out.finish().expect("in memory")
    }

    fn lines(text: &mut TextReader) -> Vec<String> {
        let mut out = Vec::new();
        let mut line = Vec::new();
        while text.read_line(&mut line).expect("readable") != Line::End {
            out.push(String::from_utf8(line.clone()).expect("UTF-8"));
        }
        out
    }

    #[test]
    fn gzip_is_told_by_its_first_bytes_and_members_follow_each_other() {
        let mut packed = gzip(b"\xef\xbb\xbfa\r\nb\n");
        packed.extend(gzip(b"\nc"));
        let mut text = text_of(packed);
        assert_eq!(lines(&mut text), ["a", "b", "", "c"]);
        assert_eq!(text.line(), 4);
        assert_eq!(lines(&mut text_of("\u{feff}a\nb\n")), ["a", "b"]);
        assert_eq!(lines(&mut text_of("")), Vec::<String>::new());
    }

    #[test]
    fn a_gzip_file_that_was_cut_off_is_an_error_that_says_so() {
        let packed = gzip(&b"0123456789\n".repeat(10_000));
        let mut text = text_of(&packed[..packed.len() - 9]);
        let mut line = Vec::new();
        let error = loop {
            match text.read_line(&mut line) {
                Ok(Line::End) => panic!("a cut-off file must not look like a whole one"),
                Ok(_) => {}
                Err(e) => break read_error(&e),
            }
        };
        assert!(error.to_string().contains("cut off"), "{error}");
    }

    #[test]
    fn utf_16_is_refused() {
        let error = TextReader::new(io::Cursor::new(b"\xff\xfea\0".to_vec())).err().expect("refused");
        assert!(error.to_string().contains("UTF-16"), "{error}");
    }

    #[test]
    fn a_line_beyond_the_limit_is_passed_over_without_being_kept() {
        let long = (ROW_BYTES_MAX + 1) as u64;
        let endless = io::repeat(b'x').take(3 * long).chain(io::Cursor::new(b"\nnext\n".to_vec()));
        let mut text = TextReader::new(endless).expect("readable");
        let mut line = Vec::new();
        assert_eq!(text.read_line(&mut line).expect("readable"), Line::TooLong);
        assert!(line.is_empty() && line.capacity() <= 2 * ROW_BYTES_MAX);
        assert_eq!(text.read_line(&mut line).expect("readable"), Line::Whole);
        assert_eq!((line.as_slice(), text.line()), (b"next".as_slice(), 3));
    }

    #[test]
    fn a_file_is_known_by_its_name_without_folders_and_packing() {
        assert_eq!(source_name(Path::new("/a/b/orders.csv.gz")), "orders.csv");
        assert_eq!(source_name(Path::new("-")), "-");
        assert_eq!(format_of(Path::new("x/Log.XES.gz")), Some(Format::Xes));
        assert_eq!(format_of(Path::new("a.ndjson")), Some(Format::Jsonl));
        assert_eq!(format_of(Path::new("-")), None);
        assert_eq!(format_of(Path::new("a.txt")), None);
    }
}
