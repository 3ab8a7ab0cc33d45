//! Reading a log that another process owns, or that nobody owns.
//!
//! # Invariants
//! - Only what the mark says is durable is shown, so nothing shown is ever taken back.
//! - A follower writes nothing and takes no lock.
//!
//! Elsewhere: who writes the mark (`writer`), what becomes of bytes behind it (`recovery`).

use std::path::Path;

use annals_model::{Error, ErrorKind, Result};

use crate::env::Env;
use crate::error::{corrupt, io_error, is_corrupt};
use crate::format::{FRAME_HEADER_LEN, FRAMES_START, FrameHeader};
use crate::inventory::Inventory;
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::mark::{Mark, MarkFile};
use crate::recovery::segments_of;
use crate::segment::{Segment, segment_number};
use crate::sync::{Arc, Mutex, spawn};
use crate::{Inner, Role, Watermark};

/// What a follower keeps besides what every log has.
pub(crate) struct Follower {
    marks: Option<MarkFile>,
    /// One at a time looks for news.
    looking: Mutex<()>,
}

/// The error is what was damaged and gone around.
type Opened = (Follower, Manifest, Vec<Arc<Segment>>, Watermark, Option<Error>);

impl Follower {
    pub(crate) fn open(env: &Env, dir: &Path) -> Result<Opened> {
        match Follower::open_whole(env, dir) {
            Err(damage) if is_corrupt(&damage) => Follower::open_damaged(env, dir, damage),
            opened => opened,
        }
    }

    /// Opens a log whose manifest, or what it and the mark say of each other, is not whole.
    fn open_damaged(env: &Env, dir: &Path, damage: Error) -> Result<Opened> {
        let found = match Inventory::take(env, dir) {
            Err(e) if is_corrupt(&e) => return Err(damage),
            found => found?,
        };
        tracing::warn!(error = %damage, "reading around damage");
        let marks = MarkFile::open_read(env, dir, &found.manifest.partition_id)?;
        let segments = segments_of(dir, &found.manifest);
        let shown = watermark(&segments, found.mark, &found.manifest)?;
        Ok((Follower { marks, looking: Mutex::new(()) }, found.manifest, segments, shown, Some(damage)))
    }

    fn open_whole(env: &Env, dir: &Path) -> Result<Opened> {
        let manifest = match Manifest::load(env, dir)? {
            Some(manifest) => manifest,
            None => return Err(no_manifest(env, dir)),
        };
        let marks = MarkFile::open_read(env, dir, &manifest.partition_id)?;
        let mark = match &marks {
            Some(marks) => marks.load_of(manifest.incarnation)?,
            None => None,
        };
        // The mark was read after the manifest, so it may already be in a segment that this manifest does not name.
        let manifest = match mark {
            Some(mark) if manifest.segments.last().is_none_or(|s| s.number < mark.segment) => {
                Manifest::load(env, dir)?.unwrap_or(manifest)
            }
            _ => manifest,
        };
        let segments = segments_of(dir, &manifest);
        let shown = watermark(&segments, mark, &manifest)?;
        Ok((Follower { marks, looking: Mutex::new(()) }, manifest, segments, shown, None))
    }
}

/// Without a manifest there is no log, or its most important file was lost.
fn no_manifest(env: &Env, dir: &Path) -> Error {
    let path = dir.join(MANIFEST_NAME);
    let names = env.disk.list(dir).unwrap_or_default();
    if names.iter().any(|name| segment_number(name).is_some()) {
        return corrupt(&path, 0, "it is gone, but there are segments");
    }
    Error::new(ErrorKind::NotFound, format!("{} holds no log", dir.display()))
}

/// What a mark proves; without one, only what lies in sealed segments.
fn watermark(segments: &[Arc<Segment>], mark: Option<Mark>, manifest: &Manifest) -> Result<Watermark> {
    let sealed = segments.last().map_or(Watermark::default(), |active| Watermark {
        position: active.header.base_position,
        address: active.address(FRAMES_START),
    });
    let Some(mark) = mark.filter(|m| m.incarnation == manifest.incarnation) else { return Ok(sealed) };
    let Some(segment) = segments.iter().rev().find(|s| s.header.number == mark.segment) else {
        let path = segments.last().map(|s| s.path.with_file_name(MANIFEST_NAME)).unwrap_or_default();
        return Err(corrupt(&path, 0, "it does not name the segment that the mark is in"));
    };
    let marked = Watermark { position: mark.position, address: segment.address(mark.file_offset) };
    Ok(marked.max(sealed))
}

impl Inner {
    pub(crate) fn refresh(&self) -> Result<()> {
        let Role::Follower(follower) = &self.role else { return Ok(()) };
        let Some(marks) = &follower.marks else { return Ok(()) };
        let _one = follower.looking.lock();
        let Some(mut mark) = marks.load()? else { return Ok(()) };
        if mark.incarnation != self.incarnation {
            // A repair that did not come to its end has written its mark, and the manifest is still the old one.
            let old = Manifest::load(&self.env, &self.dir)
                .is_ok_and(|m| m.is_some_and(|m| m.incarnation == self.incarnation));
            match marks.load_of(self.incarnation)?.filter(|_| old) {
                Some(of_this_history) => mark = of_this_history,
                None => {
                    return Err(Error::new(
                        ErrorKind::Closed,
                        "the partition has another history now, after a repair or a restore; open the store again",
                    ));
                }
            }
        }
        let mut segments = self.segments();
        if segments.last().is_none_or(|s| s.header.number < mark.segment) {
            let manifest = Manifest::load(&self.env, &self.dir)?
                .ok_or_else(|| corrupt(&self.dir.join(MANIFEST_NAME), 0, "it is gone"))?;
            let fresh = segments_of(&self.dir, &manifest);
            // Segments known already keep their maps; those that were active are replaced by their sealed selves.
            let list = fresh
                .into_iter()
                .map(|new| {
                    let known = segments.iter().find(|s| s.header == new.header && s.seal() == new.seal());
                    known.cloned().unwrap_or(new)
                })
                .collect();
            segments = Arc::new(list);
            *self.segments.write() = Arc::clone(&segments);
        }
        let Some(segment) = segments.iter().rev().find(|s| s.header.number == mark.segment) else {
            return Err(corrupt(
                &self.dir.join(MANIFEST_NAME),
                0,
                "it does not name the segment that the mark is in",
            ));
        };
        self.publish(Watermark { position: mark.position, address: segment.address(mark.file_offset) });
        Ok(())
    }

    pub(crate) fn unproven_bytes(&self) -> Result<u64> {
        if !matches!(self.role, Role::Follower(_)) {
            return Ok(0);
        }
        let shown = *self.shown.read();
        let segment = self.segment_of(shown.address)?;
        let what = || format!("read the segment {}", segment.path.display());
        let file = segment.open(&self.env, crate::env::Access::Read)?;
        let len = file.len().map_err(io_error(what))?;
        let start = shown.address - segment.header.base_address;
        let (mut at, mut head) = (start, [0; FRAME_HEADER_LEN]);
        while at + FRAME_HEADER_LEN as u64 <= len {
            file.read_exact_at(&mut head, at).map_err(io_error(what))?;
            match FrameHeader::decode(&head, segment.header.salt) {
                Some(header) => at += header.frame_len(),
                None => break,
            }
        }
        // A file that was cut short has nothing there; reading it says so.
        Ok(at.min(len).saturating_sub(start))
    }

    /// Starts the thread that looks for news while futures wait for them.
    pub(crate) fn start_polling(&self) {
        let mut thread = self.flusher.lock();
        if thread.is_some() {
            return;
        }
        let (weak, interval) = (self.myself.clone(), self.options.poll_interval);
        let poll = move || {
            loop {
                let Some(inner) = weak.upgrade() else { return };
                {
                    let mut watch = inner.watch.lock();
                    if watch.closed {
                        return;
                    }
                    inner.moved.wait_for(&mut watch, interval);
                }
                if inner.refresh().is_err() {
                    inner.publish_closed();
                    return;
                }
            }
        };
        match spawn("annals-follower", poll) {
            Ok(started) => *thread = Some(started),
            Err(error) => tracing::warn!(%error, "cannot start the follower thread"),
        }
    }
}
