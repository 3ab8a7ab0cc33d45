//! Consumer groups through the public face, one short story each; the promises are tested in `tests/`.

use std::time::Duration;

use annals_model::{
    Batch, ConsumerGroup, ErrorKind, Failure, GroupMember, GroupOptions, GroupPolicy, NewEvent, RecordPlace,
};
use annals_store::{Store, Topic, TopicOptions};

const NOW: Duration = Duration::ZERO;

fn topic(events: &[&str]) -> (Store, Topic) {
    let store = Store::in_memory().expect("in memory");
    let topic = store.create_topic("orders", TopicOptions::default()).expect("made");
    for stream in events {
        topic.append(&Batch::to(*stream).event(NewEvent::new("E"))).wait().expect("appended");
    }
    (store, topic)
}

fn at(position: u64) -> RecordPlace {
    RecordPlace { partition: 0, position }
}

fn next(member: &mut impl GroupMember) -> Option<u64> {
    member.next(NOW).expect("delivered").map(|d| d.event.position)
}

#[test]
fn events_are_delivered_acked_and_not_again() {
    let (_store, topic) = topic(&["a", "b", "a"]);
    let group = topic.create_group("g", &GroupOptions::default()).expect("made");
    let mut member = group.join().expect("joined");
    for position in 0..3 {
        assert_eq!(next(&mut member), Some(position));
        member.ack(at(position)).expect("in hand");
    }
    assert_eq!(next(&mut member), None);
    member.commit().expect("committed");
    assert_eq!(group.info().expect("there").committed.position(0), Some(3));
    drop(member);
    assert_eq!(next(&mut group.join().expect("joined")), None);
}

#[test]
fn a_parked_event_holds_its_key_and_no_other_until_it_is_redriven() {
    let (_store, topic) = topic(&["a", "b", "a", "a", "b"]);
    let policy = GroupPolicy { tries_max: 1, ..GroupPolicy::default() };
    let group = topic.create_group("g", &GroupOptions { policy, ..GroupOptions::default() }).expect("made");
    let mut member = group.join().expect("joined");
    assert_eq!(next(&mut member), Some(0));
    member.nack(at(0), &Failure::new("Bad", "no"), None).expect("in hand");
    for position in [1, 4] {
        assert_eq!(next(&mut member), Some(position));
        member.ack(at(position)).expect("in hand");
    }
    assert_eq!(next(&mut member), None);
    let info = group.info().expect("there");
    assert_eq!((info.dead_letters, info.held, info.committed.position(0)), (1, 2, Some(5)));
    group.redrive(at(0), Some(b"mended")).expect("there");
    for position in [0, 2, 3] {
        let delivery = member.next(NOW).expect("delivered").expect("one");
        assert_eq!(delivery.event.position, position);
        assert_eq!(delivery.event.data, (position == 0).then_some(b"mended".as_slice()));
        member.ack(at(position)).expect("in hand");
    }
    assert_eq!(next(&mut member), None);
    let info = group.info().expect("there");
    assert_eq!((info.dead_letters, info.held, info.counts.recovered), (0, 0, 1));
    let e = member.ack(at(3)).unwrap_err();
    assert_eq!(e.kind(), &ErrorKind::LeaseExpired);
}

#[test]
fn a_long_journal_is_folded_from_its_last_image() {
    let dir = tempfile::tempdir().expect("made");
    let store = Store::open(dir.path()).expect("opened");
    let options = TopicOptions { durability: annals_model::Durability::Buffered, ..TopicOptions::default() };
    let topic = store.create_topic("orders", options).expect("made");
    for number in 0..1_500 {
        let batch = Batch::to(format!("s-{number}")).event(NewEvent::new("E"));
        drop(topic.append(&batch));
    }
    topic.sync().expect("synced");
    let policy = GroupPolicy { not_retried: vec!["Ba*".into()], ..GroupPolicy::default() };
    let group = topic.create_group("g", &GroupOptions { policy, ..GroupOptions::default() }).expect("made");
    let mut member = group.join().expect("joined");
    for position in 0..1_500 {
        assert_eq!(next(&mut member), Some(position));
        let failure = Failure::new("Bad", "x".repeat(200));
        assert_eq!(
            member.nack(at(position), &failure, None).expect("in hand"),
            annals_model::Nacked::Parked,
            "its failure is not retried"
        );
    }
    group
        .redrive(at(7), Some("y".repeat(3_000_000).as_bytes()))
        .expect("larger than a segment of the journal");
    let (info, letters) = (group.info().expect("there"), group.dead_letters().expect("there"));
    assert_eq!((info.dead_letters, info.committed.position(0)), (1_500, Some(1_500)));
    drop((member, group, topic));
    store.close().expect("closed");
    let store = Store::open(dir.path()).expect("opened");
    let journal = store.internal_topics().remove(0);
    let images = annals_model::Read::all().matching(annals_model::Query::types(["ImageClosed"]));
    assert!(journal.read(&images).expect("read").count() > 0, "there was enough for an image");
    let group = store.topic("orders").expect("there").group("g").expect("there");
    assert_eq!(group.dead_letters().expect("there"), letters);
    let again = group.info().expect("there");
    assert_eq!(annals_model::GroupInfo { members: 1, ..again }, info);
}
