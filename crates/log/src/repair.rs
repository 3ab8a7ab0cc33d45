//! Repairing a partition: what is damaged is given up, what is whole stays where it is.
//!
//! # Invariants
//! - A plan changes nothing. Carrying it out begins with copies of everything that will be replaced.
//! - What survives keeps its position, its time and its address; what is lost keeps its position too, so that it is never
//!   given to another record. Lost records, which say so, fill the room of damaged bytes.
//! - A file is replaced by a whole one, by its name: a crash leaves the damaged one or the repaired one, and the plan can be
//!   made and carried out again.
//! - The history gets another number: places from before are refused. It is durable before a segment is replaced.
//!
//! Elsewhere: what is whole (`salvage`), which segments there are (`inventory`), the lock and the catalogue (the store).

use std::ops::Range;
use std::path::{Path, PathBuf};

use annals_model::{Error, Incarnation, Position, Result};

use crate::env::{Access, DiskFile, Env};
use crate::error::{corrupt, io_error};
use crate::format::{FRAMES_START, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::inventory::{Inventory, context_of, mark_in, open_there};
use crate::manifest::{MANIFEST_NAME, Manifest, SegmentEntry};
use crate::mark::{MARK_NAME, Mark, MarkFile};
use crate::recovery::create;
use crate::salvage::{Ends, Patch, Piece, Salvage};
use crate::segment::{Segment, segment_name};
use crate::writer::End;

const CHUNK_LEN: usize = 1024 * 1024;

/// What has to be done to a partition; nothing, where it is whole.
pub struct Plan {
    env: Env,
    dir: PathBuf,
    found: Inventory,
    /// What the manifest is to say, but for the incarnation.
    manifest: Manifest,
    segments: Vec<Mending>,
    steps: Vec<Step>,
    lost: Vec<Range<Position>>,
}

/// One thing that a plan does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The file, relative to the partition's directory.
    pub file: String,
    /// The first damaged byte.
    pub file_offset: u64,
    /// How many bytes are damaged, where that is known.
    pub bytes: u64,
    /// The positions that are lost by it; empty where none is.
    pub positions: Range<Position>,
    /// What is wrong, and what is done about it.
    pub what: String,
}

/// A segment to be written anew.
struct Mending {
    entry: SegmentEntry,
    ends: Ends,
    patches: Vec<Patch>,
    end: End,
}

impl Plan {
    /// Looks at every byte of a partition that says something. The caller holds the store's lock.
    ///
    /// # Errors
    /// `Corrupt` where nothing is left to repair from; `Incompatible`; the system's.
    pub fn make(env: &Env, dir: &Path) -> Result<Plan> {
        let found = Inventory::take(env, dir)?;
        let mut plan = Plan {
            env: env.clone(),
            dir: dir.to_path_buf(),
            manifest: found.manifest.clone(),
            found,
            segments: Vec::new(),
            steps: Vec::new(),
            lost: Vec::new(),
        };
        for (file_offset, what) in &plan.found.made_up {
            plan.steps.push(Step {
                file: MANIFEST_NAME.to_owned(),
                file_offset: *file_offset,
                bytes: 0,
                positions: 0..0,
                what: format!("{what}: the manifest is made anew from the segments"),
            });
        }
        for index in 0..plan.found.manifest.segments.len() {
            plan.look_at(index)?;
        }
        if plan.found.mark_damaged && plan.found.mark.is_none() {
            plan.steps.push(Step {
                file: MARK_NAME.to_owned(),
                file_offset: 0,
                bytes: 0,
                positions: 0..0,
                what: "neither slot is whole: opening makes it anew, from what is whole at the log's end"
                    .to_owned(),
            });
        }
        Ok(plan)
    }

    /// Whether there is anything to do.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        !self.steps.is_empty()
    }

    /// What is to be done.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The positions that will be lost; those that an earlier repair gave up are not among them.
    #[must_use]
    pub fn lost(&self) -> &[Range<Position>] {
        &self.lost
    }

    fn look_at(&mut self, index: usize) -> Result<()> {
        let entries = &self.found.manifest.segments;
        let entry = entries[index];
        let ends = match entries.get(index + 1) {
            Some(next) => Ends::Sealed { len: next.previous_len, position: next.base_position },
            None => Ends::Active { mark: mark_in(self.found.mark, &entry) },
        };
        let name = segment_name(entry.number);
        let path = self.dir.join(&name);
        let what = || format!("read {}", path.display());
        let file = open_there(&self.env, &path)?;
        let step = |file_offset: u64, bytes: u64, positions: Range<Position>, what: &str| Step {
            file: name.clone(),
            file_offset,
            bytes,
            positions,
            what: what.to_owned(),
        };
        let mut steps = Vec::new();
        match &file {
            None => steps.push(step(0, 0, 0..0, "the file is gone: it is made anew, without its records")),
            Some(file)
                if !has_header(&**file, &Segment::new(&self.dir, &entry, self.manifest.partition_id)) =>
            {
                steps.push(step(
                    0,
                    SEGMENT_HEADER_LEN as u64,
                    0..0,
                    "its header is damaged: it is written anew",
                ));
            }
            Some(_) => {}
        }
        let context = context_of(&entry);
        let mut salvage =
            Salvage::new(file.as_deref(), context, entry.base_address, ends).map_err(io_error(what))?;
        let mended = salvage.mend_all().map_err(io_error(what))?;
        for (damage, lost) in &mended.damages {
            let (at, bytes) = (damage.bytes.start, damage.bytes.end - damage.bytes.start);
            if lost.is_empty() {
                let what = format!("{}: it is made anew, and nothing is lost", damage.what());
                steps.push(step(at, bytes, 0..0, &what));
            }
            for positions in lost {
                let what = format!("{}: what is not whole is given up", damage.what());
                steps.push(step(at, bytes, positions.clone(), &what));
                self.lost.push(positions.clone());
            }
        }
        if let Ends::Sealed { len, position } = ends {
            if mended.end.file_offset != len || mended.end.position != position {
                return Err(corrupt(
                    &path,
                    mended.end.file_offset,
                    "it cannot be brought to what the manifest says",
                ));
            }
            if let Some(next) = self.manifest.segments.get_mut(index + 1)
                && next.previous_checksum != mended.end.checksum
            {
                if steps.is_empty() {
                    let what =
                        "its frames are whole, but not those whose checksum the manifest has: they are kept";
                    steps.push(step(FRAMES_START, 0, 0..0, what));
                }
                next.previous_checksum = mended.end.checksum;
            }
        }
        let rewrite = !mended.damages.is_empty() || file.is_none() || !steps.is_empty();
        if rewrite {
            self.segments.push(Mending { entry, ends, patches: mended.patches, end: mended.end });
        }
        self.steps.append(&mut steps);
        Ok(())
    }

    /// Carries the plan out. What is replaced is first copied to `aside`, which is made. Gives the history's new number.
    ///
    /// # Errors
    /// Those of the system. Whatever fails, and wherever a crash comes, a new plan can be made and carried out.
    pub fn execute(&self, aside: &Path) -> Result<Incarnation> {
        let (env, dir) = (&self.env, &self.dir);
        if !self.is_needed() {
            return Ok(self.manifest.incarnation);
        }
        let sync_dir =
            |dir: &Path| env.disk.sync_dir(dir).map_err(io_error(|| format!("sync {}", dir.display())));
        for name in self.replaced() {
            copy_as_it_is(env, &dir.join(&name), &aside.join(&name))?;
        }
        sync_dir(aside)?;
        for mending in &self.segments {
            self.write_mended(mending)?;
        }
        sync_dir(dir)?;

        let incarnation = next_incarnation(env, self.manifest.incarnation)?;
        let what = || "write the mark".to_owned();
        if let Some(mark) = self.new_mark(incarnation) {
            // Beside the mark of the old history, so that at any moment the manifest's history has one.
            let marks = MarkFile::open_or_create(env, dir, &self.manifest.partition_id)?;
            marks.store(&mark).map_err(io_error(what))?;
            marks.sync().map_err(io_error(what))?;
        }
        let secret = match self.manifest.secret {
            // It was lost with the manifest's header; the index is made anew in any case.
            0 => env.entropy.next_u64(),
            secret => secret,
        };
        Manifest { incarnation, secret, ..self.manifest.clone() }.replace(env, dir)?;
        for mending in &self.segments {
            let path = dir.join(segment_name(mending.entry.number));
            let what = || format!("replace {}", path.display());
            env.disk.rename(&temporary(&path), &path).map_err(io_error(what))?;
            let places = path.with_extension("pos");
            if env.disk.kind(&places).map_err(io_error(what))?.is_some() {
                env.disk.remove(&places).map_err(io_error(what))?;
            }
        }
        sync_dir(dir)?;
        tracing::warn!(dir = %dir.display(), incarnation, lost = ?self.lost, "repaired a partition");
        Ok(incarnation)
    }

    /// The files that are replaced or changed, where they are there.
    fn replaced(&self) -> Vec<String> {
        let segments = self.segments.iter().map(|m| segment_name(m.entry.number));
        [MANIFEST_NAME.to_owned(), MARK_NAME.to_owned()].into_iter().chain(segments).collect()
    }

    /// The mark of the new history: where the repaired log ends, or where the old mark said.
    fn new_mark(&self, incarnation: Incarnation) -> Option<Mark> {
        let active = self.manifest.segments.last()?;
        let old = self.found.mark;
        let sequence = old.map_or(0, |m| m.sequence) + 1;
        match self.segments.iter().find(|m| m.entry.number == active.number) {
            Some(mended) => Some(Mark {
                sequence,
                position: mended.end.position,
                segment: active.number,
                file_offset: mended.end.file_offset,
                incarnation,
                recorded_time: mended.end.recorded_time,
                checksum: mended.end.checksum,
                clean: false,
            }),
            None => old.filter(|m| m.segment == active.number).map(|old| Mark {
                sequence,
                incarnation,
                clean: false,
                ..old
            }),
        }
    }

    /// Writes the repaired segment beside the damaged one, and checks it.
    fn write_mended(&self, mending: &Mending) -> Result<()> {
        let (env, entry) = (&self.env, &mending.entry);
        let segment = Segment::new(&self.dir, entry, self.manifest.partition_id);
        let path = temporary(&segment.path);
        let what = || format!("write {}", path.display());
        if env.disk.kind(&path).map_err(io_error(what))?.is_some() {
            env.disk.remove(&path).map_err(io_error(what))?;
        }
        let file = env.disk.open(&path, Access::CreateNew).map_err(io_error(what))?;
        let write = || -> std::io::Result<()> {
            file.set_len(mending.end.file_offset)?;
            file.write_all_at(&segment.header.encode(), 0)?;
            let old = open_there(env, &segment.path).map_err(std::io::Error::other)?;
            let mut salvage =
                Salvage::new(old.as_deref(), segment.context(), entry.base_address, mending.ends)?;
            salvage.walk(&mut |piece| match piece {
                Piece::Frame { at, bytes, .. } => file.write_all_at(bytes, at),
                Piece::Damage(_) => Ok(()),
            })?;
            for (at, bytes) in &mending.patches {
                file.write_all_at(bytes, *at)?;
            }
            file.sync()
        };
        write().map_err(io_error(what))?;
        // What is about to replace the only copy is read once more.
        let ends = Ends::Sealed { len: mending.end.file_offset, position: mending.end.position };
        let mut check = Salvage::new(Some(&*file), segment.context(), entry.base_address, ends)
            .map_err(io_error(what))?;
        let mut whole = true;
        let end = check
            .walk(&mut |piece| {
                whole &= matches!(piece, Piece::Frame { .. });
                Ok(())
            })
            .map_err(io_error(what))?;
        if whole && end.position == mending.end.position && end.checksum == mending.end.checksum {
            return Ok(());
        }
        Err(corrupt(&path, end.file_offset, "the repaired segment is not whole; nothing was replaced"))
    }
}

/// Makes a partition of which nothing is left anew, empty, with a history of its own.
///
/// # Errors
/// Those of the system.
pub fn make_anew(env: &Env, dir: &Path) -> Result<Incarnation> {
    let names = env.disk.list(dir).map_err(io_error(|| format!("list {}", dir.display())))?;
    let incarnation = next_incarnation(env, 1)?;
    create(env, dir, &names, incarnation)?;
    Ok(incarnation)
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension("seg.new")
}

fn has_header(file: &dyn DiskFile, segment: &Segment) -> bool {
    let mut head = [0; SEGMENT_HEADER_LEN];
    file.read_exact_at(&mut head, 0).is_ok() && SegmentHeader::decode(&head) == Ok(segment.header)
}

/// The number of a history that begins with this one's records. By chance it leaves some out, so that two histories that
/// began alike, as two restores of one backup do, have different ones.
pub(crate) fn next_incarnation(env: &Env, old: Incarnation) -> Result<Incarnation> {
    let step = 1 + (env.entropy.next_u64() & 0xffff) as Incarnation;
    old.checked_add(step).ok_or_else(|| Error::invalid("the partition has no more numbers for its history"))
}

/// Copies a file, damaged or not, durably but for its name; what the disk cannot read becomes zeros. Nothing, where it is
/// not there.
fn copy_as_it_is(env: &Env, from: &Path, to: &Path) -> Result<()> {
    let what = || format!("copy {} to {}", from.display(), to.display());
    let Some(source) = open_there(env, from)? else { return Ok(()) };
    let len = source.len().map_err(io_error(what))?;
    if env.disk.kind(to).map_err(io_error(what))?.is_some() {
        env.disk.remove(to).map_err(io_error(what))?;
    }
    let copy = env.disk.open(to, Access::CreateNew).map_err(io_error(what))?;
    copy.set_len(len).map_err(io_error(what))?;
    let mut source = crate::salvage::Lossy::new(Some(&*source)).map_err(io_error(what))?;
    let mut at = 0;
    while at < len {
        let n = (len - at).min(CHUNK_LEN as u64) as usize;
        let bytes = source.get(at, n).map_err(io_error(what))?;
        // Room that was reserved and not written need not be taken twice.
        if bytes.iter().any(|&b| b != 0) {
            copy.write_all_at(bytes, at).map_err(io_error(what))?;
        }
        at += n as u64;
    }
    copy.sync().map_err(io_error(what))
}
