//! Checking a whole store without changing it.
//!
//! # Invariants
//! - Checking goes on behind what is wrong: everything is reported.
//! - Damage to what was appended is told from damage to what is derived from it and is rebuilt by itself.
//!
//! Elsewhere: the checks of a log (`annals_log`).

use std::ops::ControlFlow;
use std::path::Path;

use annals_log::env::Env;
use annals_log::{Check, Checked, Fault, Scan};
use annals_model::{Error, ErrorKind, PartitionId, Position, RecordPlace, Result};

use crate::catalogue::{CATALOGUE_NAME, Catalogue};
use crate::codec;
use crate::index::{Cursor, TermKind};
use crate::partition::Partition;
use crate::store::Store;

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the store's directory.
    pub file: String,
    /// The byte in it.
    pub file_offset: u64,
    /// The topic.
    pub topic: String,
    /// The first record affected, where that is known.
    pub place: Option<RecordPlace>,
    /// How many records from there on cannot be read for it; 0 where none is lost by it.
    pub records: u64,
    /// What is wrong.
    pub what: String,
    /// Whether it is derived data, which is rebuilt by itself, so that nothing is lost.
    pub derived: bool,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Whole events.
    pub events: u64,
    /// Positions of events that an earlier repair gave up.
    pub lost: u64,
    /// Bytes of log looked at.
    pub bytes: u64,
    /// Segments looked at.
    pub segments: u64,
    /// Index files in use.
    pub index_files: u64,
    /// Things wrong.
    pub findings: u64,
}

impl Store {
    /// Reads every byte of log below the high watermark, every index file, and the files that say where things are, and
    /// checks them; `deep` also decodes every event and asks the index for it. `progress` is told bytes done and bytes in
    /// all, `finding` each thing wrong.
    ///
    /// It can be called on an open store, by its owner or by a reader, and changes nothing.
    ///
    /// # Errors
    /// The system's, where a file cannot be read at all; what is wrong is no error here.
    pub fn verify(
        &self,
        deep: bool,
        progress: &mut dyn FnMut(u64, u64),
        finding: &mut dyn FnMut(Finding),
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        if let Some(found) = check_catalogue(&self.inner.env, &self.inner.dir)? {
            report.findings += 1;
            finding(found);
        }
        let topics = self.topics();
        let mut total = 0;
        for topic in &topics {
            for partition in &topic.inner.partitions {
                partition.log.refresh()?;
                total += partition.log.watermark().address.saturating_sub(partition.log.start_address());
            }
        }
        let mut done = 0;
        for topic in &topics {
            for partition in &topic.inner.partitions {
                let of = Of::new(topic.inner.number, &topic.inner.name, partition.id);
                let mut found = 0;
                let mut finding = |wrong| {
                    found += 1;
                    finding(wrong);
                };
                let mut looked = |bytes| {
                    done += bytes;
                    progress(done.min(total), total);
                    ControlFlow::Continue(())
                };
                let checked = check_log(partition, &of, 0, &mut looked, &mut finding)?;
                report.events += checked.records;
                report.lost += checked.lost;
                report.bytes += checked.bytes;
                report.segments += checked.segments;
                let mut index =
                    |name: &str, file_offset, what: &str| finding(of.index(name, file_offset, what));
                let _ = partition.index().verify(&mut index, &mut |_| ControlFlow::Continue(()));
                if deep {
                    deep_check(partition, &mut |wrong: Wrong| {
                        finding(Finding {
                            file: of.file(wrong.file),
                            file_offset: wrong.address,
                            topic: of.topic.to_owned(),
                            place: Some(RecordPlace { partition: partition.id, position: wrong.position }),
                            records: u64::from(!wrong.derived),
                            what: wrong.what,
                            derived: wrong.derived,
                        });
                    })?;
                }
                report.findings += found;
                report.index_files += partition.index().stats().files as u64;
            }
        }
        Ok(report)
    }
}

/// Checks a partition's log up to the high watermark, beginning with this segment and going round; `looked` is told the
/// bytes of each piece, and its `Break` ends it.
pub(crate) fn check_log(
    partition: &Partition,
    of: &Of<'_>,
    first_segment: usize,
    looked: &mut dyn FnMut(u64) -> ControlFlow<()>,
    finding: &mut dyn FnMut(Finding),
) -> Result<Checked> {
    let mut check = Check { progress: looked, fault: &mut |fault| finding(of.fault(fault)) };
    partition.log.verify_in_turn(partition.log.watermark(), first_segment, &mut check)
}

/// The catalogue as it is on disk.
pub(crate) fn check_catalogue(env: &Env, dir: &Path) -> Result<Option<Finding>> {
    let (file_offset, what) = match Catalogue::load(env, dir) {
        Ok(Some(_)) => return Ok(None),
        Ok(None) => (0, "it is gone".to_owned()),
        Err(e) => match e.kind() {
            ErrorKind::Corrupt { file_offset, .. } => (*file_offset, e.to_string()),
            _ => return Err(e),
        },
    };
    Ok(Some(Finding {
        file: CATALOGUE_NAME.to_owned(),
        file_offset,
        topic: String::new(),
        place: None,
        records: 0,
        what,
        derived: false,
    }))
}

/// The partition that findings are of.
pub(crate) struct Of<'t> {
    dir: String,
    topic: &'t str,
    partition: PartitionId,
}

impl<'t> Of<'t> {
    pub(crate) fn new(number: u32, topic: &'t str, partition: PartitionId) -> Self {
        Of { dir: format!("topics/{number:08}/{partition:08}"), topic, partition }
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// What could not be looked at.
    pub(crate) fn unread(&self, why: &Error) -> Finding {
        Finding {
            file: self.dir.clone(),
            file_offset: 0,
            topic: self.topic.to_owned(),
            place: None,
            records: 0,
            what: format!("it cannot be read: {why}"),
            derived: false,
        }
    }

    fn fault(&self, fault: Fault) -> Finding {
        let place =
            |p: &std::ops::Range<Position>| RecordPlace { partition: self.partition, position: p.start };
        Finding {
            file: self.file(&fault.file),
            file_offset: fault.file_offset,
            topic: self.topic.to_owned(),
            place: fault.positions.as_ref().map(place),
            records: fault.positions.map_or(0, |p| p.end - p.start),
            what: fault.what,
            derived: fault.derived,
        }
    }

    pub(crate) fn index(&self, name: &str, file_offset: u64, what: &str) -> Finding {
        Finding {
            file: self.file(&format!("index/{name}")),
            file_offset,
            topic: self.topic.to_owned(),
            place: None,
            records: 0,
            what: what.to_owned(),
            derived: true,
        }
    }
}

struct Wrong {
    file: &'static str,
    address: u64,
    position: Position,
    what: String,
    derived: bool,
}

/// Every event that is whole decodes, and the index finds it by its id and in its stream. What is damaged has been found
/// already.
fn deep_check(partition: &Partition, wrong: &mut dyn FnMut(Wrong)) -> Result<()> {
    let (watermark, snapshot) = partition.readable()?;
    let hasher = partition.hasher();
    let mut from = partition.log.start();
    // Where something is not covered the index says so itself.
    let mut index_answers = snapshot.uncovered().is_empty();
    while from < watermark.position {
        let mut scan: Scan = match partition.log.scan(from, watermark) {
            Ok(scan) => scan,
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt { .. }) => {
                from = partition.log.readable_from(from, watermark)?;
                continue;
            }
            Err(e) => return Err(e),
        };
        loop {
            match scan.advance() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt { .. }) => break,
                Err(e) => return Err(e),
            }
            let record = scan.record();
            let mut report = |file: &'static str, what: String, derived: bool| {
                wrong(Wrong { file, address: record.address, position: record.position, what, derived });
            };
            let Some(event) = codec::decode(&record, partition.id) else {
                report("", "the record is no event that this program can read".to_owned(), false);
                continue;
            };
            let terms = [
                (TermKind::EventId, event.id.as_bytes().as_slice()),
                (TermKind::Stream, event.stream.as_bytes()),
            ];
            for (kind, name) in terms {
                if !index_answers {
                    break;
                }
                match snapshot.cursor(hasher.hash(kind, name)).seek(record.address) {
                    Ok(Some(address)) if address == record.address => {}
                    Ok(_) => report("index", format!("the index does not know the event's {kind:?}"), true),
                    Err(e) => {
                        report("index", e.to_string(), true);
                        index_answers = false;
                    }
                }
            }
        }
        from = partition.log.readable_from(scan.position(), watermark)?;
    }
    Ok(())
}
