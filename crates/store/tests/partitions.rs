//! What has to hold of a topic of several partitions, each of which has a log of its own.

use annals_model::{Batch, Durability, EventId, NewEvent};
use annals_store::{Store, TopicOptions};

#[test]
fn events_and_streams_are_found_in_whichever_partitions_sealed_segment_it_is() {
    let store = Store::in_memory().expect("in memory");
    let options =
        TopicOptions { partitions: 3, durability: Durability::Buffered, segment_bytes_max: 64 * 1024 };
    let topic = store.create_topic("topic", options).expect("made");
    let id = |number: u64| EventId::from_name(&format!("{number}"));
    let mut in_partition = [0; 3];
    for number in 0..2_000 {
        let event = NewEvent::new("E").id(id(number)).data(vec![7; 400]);
        let appended = topic.append(&Batch::to(format!("s-{number}")).event(event)).wait().expect("appended");
        in_partition[appended.partition as usize] += 1;
    }
    assert!(in_partition.iter().all(|count| count * 400 > 2 * 64 * 1024), "each has sealed segments");
    for number in 0..2_000 {
        let found = topic.get_by_id(id(number)).expect("whole").map(|e| e.id);
        assert_eq!(found, Some(id(number)));
    }
    let streams = topic.streams("").expect("begun").map(|s| s.expect("whole").name);
    assert_eq!(streams.collect::<std::collections::HashSet<_>>().len(), 2_000);
}
