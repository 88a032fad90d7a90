//! The program `p2p`: share computers among friends.
//!
//! It parses, wires the crates together, reports, and exits. One file per subcommand under `commands`; what several of them
//! need is beside it: the options in [`options`], the wiring in [`wiring`], the folder of keys in [`home`], words for people in
//! [`trouble`] and [`say`].

// In a program nothing is reachable from outside; `pub` says what a module gives to the others.
#![allow(unreachable_pub)]

mod bridge;
mod commands;
mod home;
mod hosting;
mod map;
mod meeting;
mod needs;
mod options;
mod outputs;
mod say;
mod terminal;
mod trouble;
mod trusted;
mod wiring;
mod words;

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    let arguments = options::Arguments::parse();
    say::start_log(&arguments.common);
    commands::demo::follow_parent();
    raise_file_limit();
    match async_std::task::block_on(commands::run(arguments)) {
        Ok(code) => code,
        Err(trouble) => {
            say::line(&format!("p2p: {trouble}"));
            trouble.code().into()
        }
    }
}

/// Links, files that stream and commands take several open files each; the usual soft limit of 1,024 is for programs of another time.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    /// More is of no use here, and some programs that are started walk through all there could be.
    const OPEN_FILES: u64 = 16_384;
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |most| most.min(OPEN_FILES));
    if limit.current.is_some_and(|now| now < wanted) {
        limit.current = Some(wanted);
        if let Err(fault) = setrlimit(Resource::Nofile, limit) {
            log::debug!("the number of open files stays as it is: {fault}");
        }
    }
}
