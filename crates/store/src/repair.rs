//! Repairing a store by explicit command: a plan, which changes nothing, and its execution.
//!
//! # Invariants
//! - A plan says everything that is lost before anything is done; nothing is lost that it does not say.
//! - Damaged bytes are kept aside, and everything that is whole stays at its position and revision.
//! - The store's lock is held from the plan to the end of its execution, so that nobody writes in between.
//!
//! Elsewhere: what becomes of a partition's bytes (`annals_log::repair`), what is damaged (`verify`).

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annals_log::env::{Access, EntryKind, Env};
use annals_log::repair::Plan;
use annals_model::{
    Durability, ErrorKind, EventId, Incarnation, PartitionId, Position, RecordPlace, Result, limits,
};

use crate::TopicOptions;
use crate::catalogue::{CATALOGUE_NAME, Catalogue, TopicEntry};
use crate::store::{
    SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, Store, StoreOptions, TOPICS_NAME, holds_a_log, io_error, make_dir,
    make_dirs, no_store, refuse_backup, take_lock,
};

/// Begins the names of directories that damaged files are copied to.
const ASIDE: &str = "damaged-";

/// One thing that a repair does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairStep {
    /// The file, relative to the store's directory.
    pub file: String,
    /// The first damaged byte.
    pub file_offset: u64,
    /// How many bytes are damaged, where that is known; otherwise 0.
    pub bytes: u64,
    /// The topic; empty for the store itself.
    pub topic: String,
    /// The first record that is lost by it.
    pub place: Option<RecordPlace>,
    /// How many records from there on are lost.
    pub records: u64,
    /// What is wrong, and what is done about it.
    pub what: String,
}

/// Records that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// Their positions. Nothing is readable there any more, and no other record will ever be.
    pub positions: Range<Position>,
}

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// What is lost.
    pub lost: Vec<Lost>,
    /// The directories that damaged files were copied to.
    pub aside: Vec<PathBuf>,
    /// The partitions that have another history now, with its number: places kept from before are refused there.
    pub incarnations: Vec<(String, PartitionId, Incarnation)>,
}

/// A repair that has been planned. The store is locked until it is dropped.
///
/// ```
/// use annals_store::{Env, Repair, Store};
/// # let dir = std::env::temp_dir().join(format!("annals-repair-doc-{}", std::process::id()));
/// # let dir = dir.as_path();
/// Store::open(dir)?.close()?;
/// let repair = Repair::plan(&Env::real(), dir)?;
/// assert!(!repair.is_needed());
/// # let _ = std::fs::remove_dir_all(dir);
/// # Ok::<(), annals_model::Error>(())
/// ```
pub struct Repair {
    env: Env,
    dir: PathBuf,
    lock: Box<dyn Send + Sync>,
    /// What the catalogue is to say, where it is not whole.
    catalogue: Option<Catalogue>,
    steps: Vec<RepairStep>,
    partitions: Vec<(TopicEntry, PartitionId, Plan)>,
    /// Partitions of which nothing is left.
    gone: Vec<(TopicEntry, PartitionId)>,
}

impl fmt::Debug for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repair").field("dir", &self.dir).field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl Repair {
    /// Looks at every byte of a store that says something, and plans what is to be done about damage. Changes nothing.
    ///
    /// What is derived, as the index is, needs no repair: it is made again by itself.
    ///
    /// # Errors
    /// `NotFound` where there is no store; `Locked` where it has an owner; `Corrupt` where nothing is left to repair from;
    /// `Incompatible`; the system's.
    pub fn plan(env: &Env, dir: impl AsRef<Path>) -> Result<Repair> {
        let dir = env.disk.resolve(dir.as_ref());
        let there = |name: &str| -> Result<bool> {
            let path = dir.join(name);
            Ok(env.disk.kind(&path).map_err(io_error("look at", &path))?.is_some())
        };
        if env.disk.kind(&dir).map_err(io_error("look at", &dir))?.is_none()
            || !there(CATALOGUE_NAME)? && !there(TOPICS_NAME)?
        {
            return Err(no_store(&dir));
        }
        refuse_backup(env, &dir)?;
        let lock = take_lock(env, &dir, "annals repair")?;
        let mut steps = Vec::new();
        let whole = match Catalogue::load(env, &dir) {
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt { .. }) => None,
            loaded => loaded?,
        };
        let (catalogue, made_up) = match whole {
            Some(catalogue) => (catalogue, false),
            None => (salvaged(env, &dir, &mut steps)?, true),
        };
        let (mut partitions, mut gone) = (Vec::new(), Vec::new());
        for entry in &catalogue.topics {
            for partition in 0..entry.options.partitions {
                let path = partition_dir(&dir, entry.number, partition);
                let of = |what: &str, file: String| RepairStep {
                    file,
                    file_offset: 0,
                    bytes: 0,
                    topic: entry.name.clone(),
                    place: None,
                    records: 0,
                    what: what.to_owned(),
                };
                let names = match env.disk.kind(&path).map_err(io_error("look at", &path))? {
                    Some(EntryKind::Directory) => env.disk.list(&path).map_err(io_error("list", &path))?,
                    _ => Vec::new(),
                };
                if !holds_a_log(&names) {
                    gone.push((entry.clone(), partition));
                    let what = "nothing of the partition is left: it is made anew, empty";
                    steps.push(of(what, relative(entry.number, partition, "")));
                    continue;
                }
                let plan = Plan::make(env, &path).map_err(|e| {
                    e.context_before(format!("topic `{}`, partition {partition}", entry.name))
                })?;
                steps.extend(plan.steps().iter().map(|step| {
                    RepairStep {
                        file_offset: step.file_offset,
                        bytes: step.bytes,
                        place: (!step.positions.is_empty())
                            .then_some(RecordPlace { partition, position: step.positions.start }),
                        records: step.positions.end - step.positions.start,
                        ..of(&step.what, relative(entry.number, partition, &step.file))
                    }
                }));
                if plan.is_needed() {
                    partitions.push((entry.clone(), partition, plan));
                }
            }
        }
        let catalogue = made_up.then_some(catalogue);
        Ok(Repair { env: env.clone(), dir, lock, catalogue, steps, partitions, gone })
    }

    /// Whether there is anything to do.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        !self.steps.is_empty()
    }

    /// What is to be done, in order.
    #[must_use]
    pub fn steps(&self) -> &[RepairStep] {
        &self.steps
    }

    /// What will be lost.
    #[must_use]
    pub fn lost(&self) -> Vec<Lost> {
        let of = |(entry, partition, plan): &(TopicEntry, PartitionId, Plan)| -> Vec<Lost> {
            let lost = plan.lost().iter().map(|positions| Lost {
                topic: entry.name.clone(),
                partition: *partition,
                positions: positions.clone(),
            });
            lost.collect()
        };
        self.partitions.iter().flat_map(of).collect()
    }

    /// Carries the plan out, and makes the indexes anew. What is replaced is first copied to a directory `damaged-TIME`
    /// in the partition's own, or below `aside`. Afterwards the store opens for writing.
    ///
    /// # Errors
    /// Those of the system. Whatever fails, and wherever a crash comes, a new plan can be made and carried out.
    pub fn execute(self, aside: Option<&Path>) -> Result<RepairReport> {
        let mut report = RepairReport { lost: self.lost(), ..RepairReport::default() };
        if !self.is_needed() {
            return Ok(report);
        }
        let Repair { env, dir, lock, catalogue, steps: _, partitions, gone } = self;
        let name = format!("{ASIDE}{}", env.clock.now()).replace(':', "-");
        let aside_of = |inside: &Path, below: &Path| -> Result<PathBuf> {
            let path = match aside {
                Some(aside) => aside.join(below),
                None => inside.join(&name),
            };
            make_dirs(&env, &path)?;
            Ok(path)
        };
        for (entry, partition, plan) in &partitions {
            let path = partition_dir(&dir, entry.number, *partition);
            let below = PathBuf::from(relative(entry.number, *partition, ""));
            let kept = aside_of(&path, &below)?;
            let incarnation = plan.execute(&kept)?;
            report.aside.push(kept);
            report.incarnations.push((entry.name.clone(), *partition, incarnation));
        }
        for (entry, partition) in &gone {
            let path = partition_dir(&dir, entry.number, *partition);
            make_dirs(&env, &path)?;
            let incarnation = annals_log::repair::make_anew(&env, &path)?;
            report.incarnations.push((entry.name.clone(), *partition, incarnation));
        }
        if let Some(catalogue) = catalogue {
            let path = dir.join(CATALOGUE_NAME);
            if env.disk.kind(&path).map_err(io_error("look at", &path))?.is_some() {
                let kept = aside_of(&dir, Path::new(""))?;
                copy(&env, &path, &kept.join(CATALOGUE_NAME))?;
                report.aside.push(kept);
            }
            for entry in &catalogue.topics {
                let topic = dir.join(TOPICS_NAME).join(format!("{:08}", entry.number));
                make_dir(&env, &topic)?;
            }
            catalogue.replace(&env, &dir)?;
        }
        drop(lock);
        // Opening makes what is derived anew, and says whether the repair was one.
        let options = StoreOptions {
            create: false,
            scrub: None,
            owner_name: "annals repair".into(),
            ..StoreOptions::default()
        };
        let store = Store::open_with(&env, &dir, options)?;
        for partition in store.inner.partitions() {
            partition.maintain()?;
        }
        store.close()?;
        Ok(report)
    }
}

fn relative(number: u32, partition: PartitionId, file: &str) -> String {
    let dir = format!("{TOPICS_NAME}/{number:08}/{partition:08}");
    if file.is_empty() { dir } else { format!("{dir}/{file}") }
}

pub(crate) fn partition_dir(dir: &Path, number: u32, partition: PartitionId) -> PathBuf {
    dir.join(relative(number, partition, ""))
}

/// Numbered directories in a directory.
fn numbers(env: &Env, dir: &Path) -> Result<Vec<u32>> {
    if env.disk.kind(dir).map_err(io_error("look at", dir))?.is_none() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for name in env.disk.list(dir).map_err(io_error("list", dir))? {
        let number = name.parse().ok().filter(|n| format!("{n:08}") == name);
        if let Some(number) = number
            && env.disk.kind(&dir.join(&name)).map_err(io_error("look at", dir))?
                == Some(EntryKind::Directory)
        {
            found.push(number);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A catalogue of the topics that are there, named as damaged bytes still say, where they do.
fn salvaged(env: &Env, dir: &Path, steps: &mut Vec<RepairStep>) -> Result<Catalogue> {
    let (id, said) = Catalogue::salvage(env, dir)?;
    let topics_dir = dir.join(TOPICS_NAME);
    let (mut topics, mut names) = (Vec::new(), BTreeSet::new());
    for number in numbers(env, &topics_dir)? {
        let there = numbers(env, &topics_dir.join(format!("{number:08}")))?;
        let partitions = there.last().map_or(0, |last| last + 1);
        if partitions == 0 || partitions > limits::PARTITIONS_MAX {
            // The making of it did not come to its end.
            continue;
        }
        let entry = said.iter().find(|e| e.number == number);
        let name = entry.map(|e| e.name.clone()).filter(|name| !names.contains(name));
        let what = match &name {
            Some(name) => format!("the topic {number} is called `{name}`, as damaged bytes say"),
            None => format!("the name of the topic {number} is lost"),
        };
        let mut name = name.unwrap_or_else(|| format!("recovered-{number}"));
        while names.contains(&name) {
            name.push('_');
        }
        names.insert(name.clone());
        let sizes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        let segment_bytes_max =
            entry.map(|e| e.options.segment_bytes_max).filter(|size| sizes.contains(size));
        let defaults = TopicOptions::default();
        let options = TopicOptions {
            partitions,
            // The stronger one: what cannot be believed must not weaken.
            durability: Durability::Synced,
            segment_bytes_max: segment_bytes_max.unwrap_or(defaults.segment_bytes_max),
        };
        steps.push(RepairStep {
            file: CATALOGUE_NAME.to_owned(),
            file_offset: 0,
            bytes: 0,
            topic: name.clone(),
            place: None,
            records: 0,
            what: format!(
                "the catalogue is damaged or gone and is made anew: {what}; its durability is synced"
            ),
        });
        topics.push(TopicEntry { number, name, options });
    }
    if steps.is_empty() {
        steps.push(RepairStep {
            file: CATALOGUE_NAME.to_owned(),
            file_offset: 0,
            bytes: 0,
            topic: String::new(),
            place: None,
            records: 0,
            what: "the catalogue is damaged and is made anew: there are no topics".to_owned(),
        });
    }
    let mut random = [0; 10];
    env.entropy.fill(&mut random);
    let store_id = id.unwrap_or_else(|| EventId::time_ordered(env.clock.now(), random));
    Ok(Catalogue { store_id, topics })
}

/// Copies a small file, durably.
fn copy(env: &Env, from: &Path, to: &Path) -> Result<()> {
    let failed = |e| io_error("copy", from)(e);
    let source = env.disk.open(from, Access::Read).map_err(failed)?;
    let mut bytes = vec![0; source.len().map_err(failed)? as usize];
    source.read_exact_at(&mut bytes, 0).map_err(failed)?;
    let copy = env.disk.open(to, Access::CreateNew).map_err(failed)?;
    copy.write_all_at(&bytes, 0).map_err(failed)?;
    copy.sync().map_err(failed)?;
    match to.parent() {
        Some(parent) => env.disk.sync_dir(parent).map_err(failed),
        None => Ok(()),
    }
}
