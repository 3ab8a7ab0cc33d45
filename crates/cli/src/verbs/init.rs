//! `annals init`: makes a store and its first topic.

use std::path::PathBuf;

use annals::{Store, StoreOptions, Topic};

use crate::context::{Context, DEFAULT_TOPIC, open_store, to_write};
use crate::failure::{Exit, Failure, Result};
use crate::verbs::topics::{TopicArgs, show_briefly};

/// Make a store and its first topic (writes)
///
/// Opens the store to write. What is there already is left as it is, so the command can be repeated, also to complete
/// what a crash left half-made. The topic is called `events`, unless --topic says otherwise.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of the store; otherwise --store, or the current directory. Made if it is not there
    dir: Option<PathBuf>,
    #[command(flatten)]
    options: TopicArgs,
}

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let dir = args.dir.unwrap_or_else(|| ctx.store_dir().to_owned());
    let shown = dir.display();

    // A store that is complete needs no lock: its owner may be at work.
    let read_only = StoreOptions { read_only: true, create: false, ..StoreOptions::default() };
    if let Ok(store) = open_store(&dir, read_only)
        && let Some(topic) = wanted(ctx, &store)
    {
        args.options.check(&topic)?;
        ctx.note(format_args!("the store `{shown}` was there already, with the topic `{}`", topic.name()));
        show_briefly(ctx, &topic)?;
        return Ok(Exit::Ok);
    }

    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        let made = std::fs::DirBuilder::new().recursive(true).create(parent);
        made.map_err(|e| Failure::file("make the directory", parent, &e))?;
    }
    let store = open_store(&dir, StoreOptions { create: true, ..to_write() })
        .map_err(|e| ctx.open_failure(&dir, e))?;
    let topic = match wanted(ctx, &store) {
        Some(topic) => {
            args.options.check(&topic)?;
            topic
        }
        None => store.create_topic(ctx.topic.as_deref().unwrap_or(DEFAULT_TOPIC), args.options.for_new())?,
    };
    ctx.note(format_args!("made the store `{shown}` with the topic `{}`", topic.name()));
    show_briefly(ctx, &topic)?;
    store.close()?;
    Ok(Exit::Ok)
}

/// The topic that `init` would make, where it is there; any topic will do where none was named.
fn wanted(ctx: &Context, store: &Store) -> Option<Topic> {
    match &ctx.topic {
        Some(name) => store.topic(name).ok(),
        None => store.topics().into_iter().next(),
    }
}
