//! `p2p send`: sends a file, a folder or a text to whoever has the code.

use std::io::Seek as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures::FutureExt as _;
use p2p_transport_wormhole::code::{Code as WormholeCode, CodeError, CodeTransport, Content, MailboxAddress, Stop};
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use super::transfer::{Bar, Meet, size, stop_by_signal};
use crate::options::Common;
use crate::say;
use crate::trouble::{Code, Trouble};

/// Names of what a folder is sent without, at most; of the others only how many there are.
const NAMED: usize = 10;

/// Options of `p2p send`.
#[derive(Debug, Args)]
pub struct Options {
    /// A file, a folder, or - for what comes on stdin.
    #[arg(value_name = "FILE|DIR|-", required_unless_present = "text")]
    pub what: Option<PathBuf>,

    /// Send this text, which the other side shows.
    #[arg(long, value_name = "WORDS", conflicts_with_all = ["what", "name"])]
    pub text: Option<String>,

    /// The code, instead of a new one: a number, and words that nobody guesses. It works once.
    #[arg(long, value_name = "CODE")]
    pub code: Option<WormholeCode>,

    /// The name under which it arrives [default: its own, for stdin: stdin]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Show the code as a QR code too, for telephones.
    #[arg(long)]
    pub qr: bool,

    /// How long to wait for the other side.
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub wait: Duration,

    #[command(flatten)]
    pub meet: Meet,
}

/// Sends.
pub async fn send(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let stop = stop_by_signal()?;
    let config = options.meet.config(common, None, options.wait, stop.clone())?;
    let mailbox = config.mailbox.clone();
    let content = content(&options, stop).await?;
    let bytes = content.size();
    let transport = CodeTransport::new(config);
    let meeting = match &options.code {
        Some(code) => transport.join(code).await?,
        None => transport.open().await?,
    };
    tell(common, &options, meeting.code(), &mailbox)?;
    let mut bar = Bar::new(common);
    meeting.send(content, &mut |report| bar.follow(&report)).await?;
    drop(bar);
    say::info(&format!("sent {}, and the other side has confirmed it", size(bytes)));
    Ok(ExitCode::SUCCESS)
}

/// The code is the answer, so it goes to stdout; how to use it is for people.
fn tell(common: &Common, options: &Options, code: &WormholeCode, mailbox: &MailboxAddress) -> Result<(), Trouble> {
    let link = code.link(mailbox);
    if common.json {
        println!("{}", serde_json::json!({ "code": code.to_string(), "link": link }));
    } else {
        println!("{code}");
    }
    say::info(&format!("on the other machine: p2p receive {code}    (or: wormhole receive {code})"));
    if options.qr {
        let picture = QrCode::new(&link).map_err(|fault| Trouble::system("the code makes no QR code", fault))?;
        // Terminals are mostly dark: what is light there is the paper.
        let picture = picture.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
        say::line(&picture);
    }
    Ok(())
}

async fn content(options: &Options, stop: Stop) -> Result<Content, Trouble> {
    let name = options.name.as_deref();
    if let Some(text) = &options.text {
        return Ok(Content::text(text)?);
    }
    let Some(what) = &options.what else {
        return Err(Trouble::new(Code::Usage, "say what to send: a file, a folder, - or --text"));
    };
    if what == Path::new("-") {
        return stdin(name.unwrap_or("stdin"), stop).await;
    }
    let metadata = std::fs::metadata(what);
    let metadata =
        metadata.map_err(|fault| Trouble::new(Code::Input, format!("{} cannot be read: {fault}", what.display())))?;
    if !metadata.is_dir() {
        return Ok(Content::file(what, name).await?);
    }
    say::info("packing the folder");
    let content = Content::directory(what, name, stop).await?;
    for left_out in content.left_out().iter().take(NAMED) {
        say::info(&format!("not sent: {}", say::harmless(left_out)));
    }
    if content.left_out().len() > NAMED {
        say::info(&format!("not sent: {} more", content.left_out().len() - NAMED));
    }
    Ok(content)
}

/// The other side wants to know beforehand how much it is.
async fn stdin(name: &str, stop: Stop) -> Result<Content, Trouble> {
    let trouble =
        |fault: std::io::Error| Trouble::new(Code::Input, format!("stdin cannot be kept to be sent: {fault}"));
    let mut file = tempfile::tempfile().map_err(trouble)?;
    let mut kept = async_std::fs::File::from(file.try_clone().map_err(trouble)?);
    let mut stdin = async_std::io::stdin();
    let bytes = futures::select! {
        bytes = async_std::io::copy(&mut stdin, &mut kept).fuse() => bytes.map_err(trouble)?,
        () = Box::pin(stop.stopped().fuse()) => return Err(CodeError::Stopped.into()),
    };
    drop(kept);
    file.rewind().map_err(trouble)?;
    Ok(Content::stream(name, bytes, async_std::fs::File::from(file))?)
}
