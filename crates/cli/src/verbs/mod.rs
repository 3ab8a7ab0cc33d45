//! One module for each verb: its arguments and `run`.

pub(crate) mod append;
pub(crate) mod backup;
pub(crate) mod consume;
pub(crate) mod demo;
pub(crate) mod dlq;
pub(crate) mod get;
pub(crate) mod groups;
pub(crate) mod init;
pub(crate) mod project;
pub(crate) mod read;
pub(crate) mod repair;
pub(crate) mod restore;
pub(crate) mod shell;
pub(crate) mod stats;
pub(crate) mod streams;
pub(crate) mod tail;
pub(crate) mod topics;
pub(crate) mod verify;
