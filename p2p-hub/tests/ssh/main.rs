//! The hub as OpenSSH's own client sees it: every test starts a hub of its own and real `ssh` processes.

mod access;
mod bounds;
mod commands;
mod files;
mod kit;
mod pipe;
mod pressure;
mod pubsub;
