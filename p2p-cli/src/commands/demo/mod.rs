//! `p2p demo`: all of it on this machine. Each role is a process of its own, started from this same program: a hub, a host, two workers
//! and a client that has a picture computed, one task per tile.

mod fractal;
mod processes;
mod render;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use p2p_hub::make_user_key;
use serde::Deserialize;

use self::fractal::Picture;
pub use self::processes::follow_parent;
use self::processes::{Process, Role};
use super::Signals;
use crate::home;
use crate::options::Common;
use crate::say;
use crate::trouble::{Code, Trouble};

/// The demonstration's cluster.
const CLUSTER: &str = "alice/friends";
/// How long a role may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Options of `p2p demo`.
#[derive(Debug, Args)]
pub struct Options {
    /// Leave the cluster running afterwards, and show how to use it by hand.
    #[arg(long)]
    pub keep: bool,

    /// Where to put the picture.
    #[arg(long, default_value = "mandelbrot.png", value_name = "FILE")]
    pub out: PathBuf,

    #[command(flatten)]
    picture: Picture,

    /// What one of the demonstration's own processes does.
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The client: has the tiles computed and puts them together.
    #[command(hide = true)]
    Render {
        #[command(flatten)]
        picture: Picture,
        #[arg(long)]
        out: PathBuf,
    },
    /// A task: computes one tile and prints its pixels.
    #[command(hide = true)]
    Tile {
        #[command(flatten)]
        picture: Picture,
        #[arg(long)]
        tile: u32,
    },
}

/// Runs the demonstration, or one of its parts.
pub async fn demo(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    match options.part {
        None => whole(common, &options).await,
        Some(Part::Render { picture, out }) => render::render(common, &picture, &out).await,
        Some(Part::Tile { picture, tile }) => fractal::print_tile(&picture, tile),
    }
}

#[derive(Deserialize)]
struct HubLine {
    address: std::net::SocketAddr,
    fingerprint: String,
}

async fn whole(common: &Common, options: &Options) -> Result<ExitCode, Trouble> {
    let mut signals = Signals::listen()?;
    options.picture.check()?;
    let folder = tempfile::Builder::new()
        .prefix("p2p-demo-")
        .tempdir()
        .map_err(|fault| Trouble::system("no folder for the demonstration's keys can be made", fault))?;
    let cast = async {
        let mut roles = Vec::new();
        let setting = open(&folder, &mut roles).await?;
        let client = setting.role("client", "alice");
        let rendering = client.run(render::arguments(&options.picture, &options.out)?).await?;
        Ok::<_, Trouble>((setting, roles, rendering))
    };
    let played = futures::select! {
        played = Box::pin(futures::FutureExt::fuse(cast)) => Some(played?),
        () = futures::FutureExt::fuse(signals.next()) => None,
    };
    // Dropped, and so ended, with the interrupted cast.
    let Some((setting, roles, code)) = played else { return Ok(Code::Interrupted.into()) };
    if options.keep && code == 0 {
        setting.show_how(common);
        signals.next().await;
    }
    drop(roles);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Starts hub, host and workers, and waits until each is ready.
async fn open(folder: &tempfile::TempDir, roles: &mut Vec<Process>) -> Result<Setting, Trouble> {
    let mut users = String::new();
    for user in ["alice", "bob"] {
        let path = folder.path().join(user);
        home::make_folder(&path).map_err(|fault| Trouble::system("a folder cannot be made", fault))?;
        let key =
            make_user_key(&path.join("ssh-key")).map_err(|fault| Trouble::new(Code::System, fault.to_string()))?;
        users += &format!("{user} {key}\n");
    }
    let users_file = folder.path().join("users");
    std::fs::write(&users_file, users).map_err(|fault| Trouble::system("the users file cannot be written", fault))?;

    let mut setting = Setting { folder: folder.path().to_owned(), hub: None };
    let listen = ["hub", "--json", "--listen", "127.0.0.1:0", "--users"].map(Into::into);
    let hub = setting.role("hub", "hub").start(listen.into_iter().chain([users_file.into_os_string()]))?;
    let line = hub.said(|line| line.starts_with('{'), READY_WITHIN).await?;
    roles.push(hub);
    let hub: HubLine =
        serde_json::from_str(&line).map_err(|fault| Trouble::system("the hub said something odd", fault))?;
    say::info(&format!("a hub of our own listens on ssh://{}", hub.address));
    setting.hub = Some(hub);

    let host = setting.role("host", "alice").start(["host", "--users", "bob"].map(Into::into))?;
    host.said(|line| line.contains("is open for"), READY_WITHIN).await?;
    say::info(&format!("alice hosts {CLUSTER} with bob on its list"));
    roles.push(host);

    let slots = std::thread::available_parallelism().map_or(1, |count| (count.get() / 2).max(1));
    for user in ["alice", "bob"] {
        let arguments = ["worker".to_owned(), "--slots".to_owned(), slots.to_string()].map(Into::into);
        let worker = setting.role(&format!("{user}'s worker"), user).start(arguments)?;
        worker.said(|line| line.contains("at work for"), READY_WITHIN).await?;
        say::info(&format!("{user} adds a worker with {slots} slot{}", if slots == 1 { "" } else { "s" }));
        roles.push(worker);
    }
    Ok(setting)
}

/// Where the demonstration takes place.
struct Setting {
    folder: PathBuf,
    hub: Option<HubLine>,
}

impl Setting {
    /// A role to start, as `user`.
    fn role(&self, name: &str, user: &str) -> Role {
        let home = self.folder.join(user);
        let mut variables = vec![("P2P_HOME", home.clone().into_os_string())];
        if let Some(hub) = &self.hub {
            variables.extend([
                ("P2P_BOARD", format!("ssh://{}", hub.address).into()),
                ("P2P_BOARD_KEY", hub.fingerprint.clone().into()),
                ("P2P_CLUSTER", CLUSTER.into()),
                ("P2P_IDENTITY", home.join("ssh-key").into_os_string()),
                // Everybody is on this machine: no relay is needed, and none is asked.
                ("P2P_RELAY", "none".into()),
            ]);
        }
        Role { name: name.to_owned(), variables }
    }

    /// The cluster goes on: how to use it.
    fn show_how(&self, common: &Common) {
        let program = std::env::current_exe().map_or("p2p".to_owned(), |path| path.display().to_string());
        println!("\nThe cluster goes on until you press Ctrl-C here. In another terminal, as alice:\n");
        for (name, value) in self.role("", "alice").variables {
            println!("  export {name}={}", value.display());
        }
        println!();
        for command in ["status", "run -- uname -a", "map 'echo {} squared is $(({}*{}))' ::: 1 2 3"] {
            println!("  {program} {command}");
        }
        if !common.quiet {
            println!("\nAs bob: the same with /bob in place of /alice.");
        }
    }
}
