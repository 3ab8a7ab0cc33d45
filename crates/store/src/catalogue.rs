//! The catalogue: who the store is and which topics it has. Names are kept here and never become paths.
//!
//! # Invariants
//! - The file is replaced as a whole: written beside, synced, renamed, the directory synced. A crash leaves the old one
//!   or the new one.
//! - A topic's number never changes and is never used again; its directory is made before the catalogue names it.
//! - With the catalogue there is a store, without it there is none.
//!
//! Elsewhere: what is in a topic's directories (`annals_log`).

use std::path::Path;

use annals_log::env::{Access, Env};
use annals_log::guard::{self, Guard};
use annals_model::{Durability, Error, ErrorKind, EventId, Result, limits};

use crate::TopicOptions;
use crate::store::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};

/// The file's name in the store's directory.
pub(crate) const CATALOGUE_NAME: &str = "catalogue";
/// The same bytes under this name make a directory a backup.
pub(crate) const BACKUP_NAME: &str = "backup";
const MAGIC: [u8; 8] = *b"ANNALSDB";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 64;
const ENTRY_LEN: usize = 32;
/// A longer file is no catalogue.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Who the store is and which topics it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Catalogue {
    pub(crate) store_id: EventId,
    pub(crate) topics: Vec<TopicEntry>,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicEntry {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) options: TopicOptions,
}

impl Catalogue {
    /// Reads the catalogue; `None` where there is no such file.
    pub(crate) fn load(env: &Env, dir: &Path) -> Result<Option<Catalogue>> {
        Catalogue::load_as(env, dir, CATALOGUE_NAME)
    }

    /// The same of a file of this name.
    pub(crate) fn load_as(env: &Env, dir: &Path, name: &str) -> Result<Option<Catalogue>> {
        let path = dir.join(name);
        let what = |e| Error::io(format!("cannot read {}", path.display()), e);
        if env.disk.kind(&path).map_err(what)?.is_none() {
            return Ok(None);
        }
        let file = env.disk.open(&path, Access::Read).map_err(what)?;
        let len = file.len().map_err(what)?;
        if len > BYTES_MAX {
            return Err(corrupt(0, "it is too long to be a catalogue"));
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0).map_err(what)?;
        Catalogue::decode(&bytes).map(Some)
    }

    /// Puts this catalogue in place of what is there, durably and at once.
    pub(crate) fn replace(&self, env: &Env, dir: &Path) -> Result<()> {
        self.replace_as(env, dir, CATALOGUE_NAME)
    }

    /// The same of a file of this name.
    pub(crate) fn replace_as(&self, env: &Env, dir: &Path, name: &str) -> Result<()> {
        let path = dir.join(name);
        let what = |e| Error::io(format!("cannot write {}", path.display()), e);
        let temporary = path.with_extension("new");
        if env.disk.kind(&temporary).map_err(what)?.is_some() {
            env.disk.remove(&temporary).map_err(what)?;
        }
        let file = env.disk.open(&temporary, Access::CreateNew).map_err(what)?;
        file.write_all_at(&self.encode(), 0).map_err(what)?;
        if guard::on(Guard::CatalogueFileSync) {
            file.sync().map_err(what)?;
        }
        env.disk.rename(&temporary, &path).map_err(what)?;
        if guard::on(Guard::CatalogueNameSync) {
            env.disk.sync_dir(dir).map_err(what)?;
        }
        Ok(())
    }

    /// The store's id and the topics that damaged bytes still name, none of them to be believed.
    pub(crate) fn salvage(env: &Env, dir: &Path) -> Result<(Option<EventId>, Vec<TopicEntry>)> {
        let path = dir.join(CATALOGUE_NAME);
        let what = |e| Error::io(format!("cannot read {}", path.display()), e);
        if env.disk.kind(&path).map_err(what)?.is_none() {
            return Ok((None, Vec::new()));
        }
        let file = env.disk.open(&path, Access::Read).map_err(what)?;
        let mut bytes = vec![0; file.len().map_err(what)?.min(BYTES_MAX) as usize];
        file.read_exact_at(&mut bytes, 0).map_err(what)?;
        let id = bytes.get(24..40).and_then(|b| b.try_into().ok()).map(EventId::from_bytes);
        let mut topics = Vec::new();
        let mut rest = bytes.get(HEADER_LEN..).unwrap_or_default();
        while let Some((topic, after)) = decode_entry(rest) {
            topics.push(topic);
            rest = after;
        }
        Ok((id, topics))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[24..40].copy_from_slice(self.store_id.as_bytes());
        bytes[40..44].copy_from_slice(&(self.topics.len() as u32).to_le_bytes());
        for topic in &self.topics {
            let mut entry = [0; ENTRY_LEN];
            entry[0..4].copy_from_slice(&topic.number.to_le_bytes());
            entry[4..8].copy_from_slice(&topic.options.partitions.to_le_bytes());
            entry[8..16].copy_from_slice(&topic.options.segment_bytes_max.to_le_bytes());
            entry[16] = match topic.options.durability {
                Durability::Synced => 0,
                Durability::Buffered => 1,
            };
            entry[20..24].copy_from_slice(&(topic.name.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&entry);
            bytes.extend_from_slice(topic.name.as_bytes());
        }
        let crc = crc32fast::hash(&bytes);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Catalogue> {
        if bytes.len() < HEADER_LEN || bytes[0..8] != MAGIC {
            return Err(corrupt(0, "it does not begin as a catalogue does"));
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..20]);
        crc.update(&[0; 4]);
        crc.update(&bytes[24..]);
        if crc.finalize() != u32_at(bytes, 20) && guard::on(Guard::CatalogueCrc) {
            return Err(corrupt(20, "its checksum does not fit"));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION || u32_at(bytes, 12) != 0 {
            return Err(Error::new(
                ErrorKind::Incompatible { found: u32::from(version), supported: u32::from(VERSION) },
                format!(
                    "the store has format version {version}, but this program knows only up to {VERSION}; \
                     use a newer program"
                ),
            ));
        }
        let mut store_id = [0; 16];
        store_id.copy_from_slice(&bytes[24..40]);
        let mut topics = Vec::new();
        let mut rest = &bytes[HEADER_LEN..];
        for _ in 0..u32_at(bytes, 40) {
            let (topic, after) =
                decode_entry(rest).ok_or_else(|| corrupt(HEADER_LEN as u64, "an entry is not whole"))?;
            topics.push(topic);
            rest = after;
        }
        Ok(Catalogue { store_id: EventId::from_bytes(store_id), topics })
    }
}

fn decode_entry(bytes: &[u8]) -> Option<(TopicEntry, &[u8])> {
    let (entry, rest) = bytes.split_at_checked(ENTRY_LEN)?;
    let name_len = u32_at(entry, 20) as usize;
    let (name, rest) = if guard::on(Guard::CatalogueBounds) {
        rest.split_at_checked(name_len)?
    } else {
        rest.split_at(name_len)
    };
    let name = std::str::from_utf8(name).ok()?.to_owned();
    limits::check_topic_name(&name).ok()?;
    let options = TopicOptions {
        partitions: u32_at(entry, 4),
        durability: match entry[16] {
            0 => Durability::Synced,
            1 => Durability::Buffered,
            _ => return None,
        },
        segment_bytes_max: u64::from_le_bytes(entry[8..16].try_into().ok()?),
    };
    let possible = (1..=limits::PARTITIONS_MAX).contains(&options.partitions)
        && (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&options.segment_bytes_max);
    possible.then_some((TopicEntry { number: u32_at(entry, 0), name, options }, rest))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn corrupt(file_offset: u64, what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt { segment: CATALOGUE_NAME.to_owned(), file_offset },
        format!("the store's catalogue is damaged: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let catalogue = Catalogue {
            store_id: EventId::from_bytes([9; 16]),
            topics: vec![
                TopicEntry { number: 1, name: "orders".into(), options: TopicOptions::default() },
                TopicEntry {
                    number: 4,
                    name: "../../etc/passwd ✓".into(),
                    options: TopicOptions {
                        partitions: 3,
                        durability: Durability::Buffered,
                        segment_bytes_max: 1 << 20,
                    },
                },
            ],
        };
        let bytes = catalogue.encode();
        assert_eq!(Catalogue::decode(&bytes).expect("whole"), catalogue);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Catalogue::decode(&damaged).is_err(), "bit {bit} flipped unnoticed");
        }
        for len in 0..bytes.len() {
            assert!(Catalogue::decode(&bytes[..len]).is_err(), "cut to {len} unnoticed");
        }
    }
}
