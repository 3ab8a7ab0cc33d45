//! The store against a simple model of it.
//!
//! Goal: whatever is asked of a topic, in whatever order, it answers as the model does that keeps all events in a list.
//!
//! Method: random appends with all kinds of ids, expectations and conditions, random reads of all kinds, and reopening,
//! from seeds; with small segments, tiny index runs and caches, one partition and three.

use annals_tests::{Random, against_model, for_seeds};

#[test]
fn a_topic_of_one_partition_answers_as_the_model() {
    for_seeds(150, |seed| against_model::run(Random::new(seed), seed, 1, 400));
}

#[test]
fn a_topic_of_three_partitions_answers_as_the_model() {
    for_seeds(150, |seed| against_model::run(Random::new(seed), seed, 3, 400));
}
