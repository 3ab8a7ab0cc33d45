//! The embedded store keeps the contract of a backend: in memory, on a real disk, with tiny segments and index runs.

use annals_model::EventStore;
use annals_store::{Env, Store, StoreOptions, TopicOptions, env::MemoryDisk};
use std::sync::Arc;

fn topic(
    env: &Env,
    dir: &std::path::Path,
    options: StoreOptions,
    topic: TopicOptions,
) -> Box<dyn EventStore> {
    let store = Store::open_with(env, dir, options).expect("it opens");
    Box::new(store.create_topic("orders", topic).expect("it is made"))
}

/// So small that every test goes over several index runs, and some over several segments.
fn tiny() -> StoreOptions {
    StoreOptions { index_run_bytes: 2048, cached_streams_max: 2, scrub: None, ..StoreOptions::default() }
}

fn small_segments(partitions: u32) -> TopicOptions {
    TopicOptions { partitions, segment_bytes_max: 64 * 1024, ..TopicOptions::default() }
}

fn in_memory() -> Env {
    Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() }
}

#[test]
fn a_store_in_memory_keeps_the_contract() {
    annals_model::conformance::run(&|| {
        let store = Store::in_memory().expect("it opens");
        Box::new(store.create_topic("orders", TopicOptions::default()).expect("it is made"))
    });
}

#[test]
fn a_store_with_tiny_segments_and_runs_keeps_the_contract() {
    annals_model::conformance::run(&|| topic(&in_memory(), "/s".as_ref(), tiny(), small_segments(1)));
}

#[test]
fn a_store_on_a_real_disk_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("there is room");
    let count = std::cell::Cell::new(0);
    annals_model::conformance::run(&|| {
        count.set(count.get() + 1);
        let dir = dir.path().join(format!("store-{}", count.get()));
        topic(&Env::real(), &dir, StoreOptions::default(), small_segments(1))
    });
}

#[test]
fn topics_of_several_partitions_keep_the_contract() {
    annals_model::conformance::run_partitioned(&|| {
        let store = Store::in_memory().expect("it opens");
        let options = TopicOptions { partitions: 3, ..TopicOptions::default() };
        Box::new(store.create_topic("orders", options).expect("it is made"))
    });
    annals_model::conformance::run_partitioned(&|| {
        topic(&in_memory(), "/s".as_ref(), tiny(), small_segments(4))
    });
}
