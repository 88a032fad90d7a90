//! `p2p receive`: receives what somebody sends under a code.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use p2p_transport_wormhole::code::{
    Code as WormholeCode, CodeError, CodeTransport, Incoming, MailboxAddress, Offered, Place, Stage,
};

use super::transfer::{Bar, Meet, size, stop_by_signal};
use crate::options::Common;
use crate::say;
use crate::trouble::{Code, Trouble};

/// Options of `p2p receive`.
#[derive(Debug, Args)]
pub struct Options {
    /// The code, or the link of a QR code.
    #[arg(value_name = "CODE", value_parser = WormholeCode::from_link)]
    pub code: (WormholeCode, Option<MailboxAddress>),

    /// Where to put it: a folder that is there, a new name, or - for stdout [default: here, under the sender's name; a text: stdout]
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,

    /// Replace a file that is there.
    #[arg(long)]
    pub force: bool,

    /// How long to wait for the sender.
    #[arg(long, default_value = "2m", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub wait: Duration,

    #[command(flatten)]
    pub meet: Meet,
}

/// Receives.
pub async fn receive(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let stop = stop_by_signal()?;
    let (code, linked) = &options.code;
    let config = options.meet.config(common, linked.clone(), options.wait, stop)?;
    let transport = CodeTransport::new(config);
    let (meeting, early) = match transport.join_open(code).await {
        Err(CodeError::NotInUse) if !options.wait.is_zero() => {
            let wait = humantime::format_duration(options.wait);
            say::info(&format!(
                "nobody offers anything under this code yet; waiting up to {wait} for the sender (a code works once: if it was used, \
                 a new one is needed)"
            ));
            (transport.join(code).await?, true)
        }
        joined => (joined?, false),
    };
    let incoming = meeting.receive().await.map_err(|error| match error {
        CodeError::Silent { stage: Stage::Join, .. } if early => CodeError::NotInUse,
        error => error,
    })?;
    if options.output.as_deref() == Some(Path::new("-")) {
        return to_stdout(common, incoming).await;
    }
    if let (Offered::Text { .. }, None) = (incoming.offered(), &options.output) {
        return to_stdout(common, incoming).await;
    }
    save(common, &options, incoming).await
}

async fn save(common: &Common, options: &Options, incoming: Incoming) -> Result<ExitCode, Trouble> {
    let path = match path(options.output.as_deref(), &incoming) {
        Ok(path) => path,
        Err(why) => return Err(incoming.refuse(why).await.into()),
    };
    let (kind, bytes) = match incoming.offered() {
        Offered::Text { bytes } => ("text", *bytes),
        Offered::File { bytes, .. } => ("file", *bytes),
        Offered::Directory { bytes, files, zip_bytes, .. } => {
            say::info(&format!("a folder with {files} files, {} packed", size(*zip_bytes)));
            ("folder", *bytes)
        }
    };
    say::info(&format!("receiving {} into {}", size(bytes), path.display()));
    let place = Place { path, replace: options.force };
    let mut bar = Bar::new(common);
    incoming.save(&place, &mut |report| bar.follow(&report)).await?;
    drop(bar);
    let path = place.path;
    if common.json {
        println!("{}", serde_json::json!({ "path": path.to_string_lossy(), "kind": kind, "bytes": bytes }));
    }
    say::info(&format!("{} is complete", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// Where it goes.
fn path(output: Option<&Path>, incoming: &Incoming) -> Result<PathBuf, CodeError> {
    let Some(output) = output else { return Ok(PathBuf::from(incoming.name()?)) };
    let means_folder = output.as_os_str().as_encoded_bytes().ends_with(b"/");
    if means_folder || output.is_dir() { Ok(output.join(incoming.name()?)) } else { Ok(output.to_owned()) }
}

async fn to_stdout(common: &Common, incoming: Incoming) -> Result<ExitCode, Trouble> {
    match incoming.offered() {
        Offered::Text { .. } => {
            let text = incoming.text().await?;
            let is_seen = std::io::IsTerminal::is_terminal(&std::io::stdout());
            let text = if is_seen { say::harmless(&text) } else { text };
            if common.json {
                print(&serde_json::json!({ "text": text, "kind": "text" }).to_string())?;
            } else {
                print(&text)?;
            }
        }
        Offered::File { bytes, .. } => {
            say::info(&format!("receiving {}", size(*bytes)));
            let mut bar = Bar::new(common);
            incoming.write_to(&mut async_std::io::stdout(), &mut |report| bar.follow(&report)).await?;
        }
        Offered::Directory { .. } => {
            let why = CodeError::Unacceptable("a folder cannot be written to stdout: name a place with -o".to_owned());
            return Err(incoming.refuse(why).await.into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> Result<(), Trouble> {
    use std::io::Write as _;
    let written = writeln!(std::io::stdout(), "{text}");
    written.map_err(|fault| Trouble::new(Code::CannotWrite, format!("the text cannot be written: {fault}")))
}
