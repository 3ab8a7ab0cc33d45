//! Which consumer groups a command line means.
//!
//! # Invariants
//! - A name that is no group's is an error that names those that there are, whatever the verb does with groups.
//! - Without `--topic` a group is looked for in every topic, and one that is found in several is not guessed.
//!
//! Elsewhere: which topic (`context`).

use annals::{ConsumerGroup, ConsumerGroups, Store, Topic};

use crate::context::Context;
use crate::failure::{Failure, Result};

/// The consumer groups of a topic.
pub(crate) fn groups_of(topic: &Topic) -> &dyn ConsumerGroups {
    topic
}

/// A group, and the topic that it is of.
pub(crate) struct Found {
    pub(crate) topic: Topic,
    pub(crate) group: Box<dyn ConsumerGroup>,
}

impl Found {
    pub(crate) fn name(&self) -> &str {
        self.group.name()
    }
}

/// The groups of these names, in their order; all of them where none is named.
pub(crate) fn find(ctx: &Context, store: &Store, names: &[String]) -> Result<Vec<Found>> {
    let topics = match &ctx.topic {
        Some(_) => vec![ctx.topic(store)?],
        None => store.topics(),
    };
    if names.is_empty() {
        let mut found = Vec::new();
        for topic in topics {
            let groups = groups_of(&topic);
            let all: Result<Vec<_>, _> = groups.groups()?.iter().map(|name| groups.group(name)).collect();
            found.extend(all?.into_iter().map(|group| Found { topic: topic.clone(), group }));
        }
        return Ok(found);
    }
    names.iter().map(|name| named(&topics, name)).collect()
}

/// The group of this name; where none is named, the only one.
pub(crate) fn find_one(ctx: &Context, store: &Store, name: Option<&String>) -> Result<Found> {
    if let Some(name) = name {
        let mut found = find(ctx, store, std::slice::from_ref(name))?;
        return Ok(found.remove(0));
    }
    let mut found = find(ctx, store, &[])?;
    match found.len() {
        0 => Err(Failure::not_found("the store has no consumer group")
            .next("make one with `annals groups create NAME`")),
        1 => Ok(found.remove(0)),
        _ => {
            let names: Vec<_> =
                found.iter().map(|f| format!("`{}` of `{}`", f.name(), f.topic.name())).collect();
            Err(Failure::usage("which consumer group is not said")
                .why(format!("the store has {}", names.join(", ")))
                .next("name one"))
        }
    }
}

fn named(topics: &[Topic], name: &str) -> Result<Found> {
    if let [topic] = topics {
        // The store names those that there are.
        let group = groups_of(topic).group(name)?;
        return Ok(Found { topic: topic.clone(), group });
    }
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for topic in topics {
        let groups = groups_of(topic);
        let names = groups.groups()?;
        if names.iter().any(|n| n == name) {
            found.push(Found { topic: topic.clone(), group: groups.group(name)? });
        }
        others.extend(names.iter().map(|n| format!("`{n}` of `{}`", topic.name())));
    }
    match (found.len(), found.pop()) {
        (1, Some(only)) => Ok(only),
        (0, _) => Err(Failure::not_found(format!("there is no consumer group `{name}` of any topic")).why(
            if others.is_empty() {
                "there is none at all".to_owned()
            } else {
                format!("there are {}", others.join(", "))
            },
        )),
        _ => Err(Failure::usage(format!("several topics have a consumer group `{name}`"))
            .next("say which with --topic NAME")),
    }
}
