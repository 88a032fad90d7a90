//! `p2p id`: who one is.

use std::process::ExitCode;

use clap::Args;

use crate::home::Home;
use crate::options::Common;
use crate::trouble::Trouble;
use crate::wiring;
use crate::words::words;

/// Options of `p2p id`.
#[derive(Debug, Args)]
pub struct Options {
    /// Do not ask the board for the account's name: show what it said last, if that is known.
    #[arg(long)]
    pub offline: bool,
}

/// Shows the account and the machine's key, as a fingerprint and in words.
pub async fn id(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let home = Home::open(common.home.as_deref())?;
    let key = home.identity()?.machine_key();
    let (fingerprint, words) = (key.fingerprint(), words(&key));
    let user = match &common.board_user {
        Some(user) => Some(user.clone()),
        None if options.offline => wiring::known_user(common, &home),
        // Asked anew: this is how one finds out.
        None => Some(wiring::ask_user(common, &wiring::board_config(common)?, &home).await?),
    };
    if common.json {
        let line = serde_json::json!({ "user": user, "board": common.board.to_string(), "key": fingerprint, "words": words, "home": home.folder() });
        println!("{line}");
    } else {
        if let Some(user) = user {
            println!("user   {user} on {}", common.board);
        }
        println!("key    {fingerprint}");
        println!("words  {words}");
        println!("home   {}", home.folder().display());
    }
    Ok(ExitCode::SUCCESS)
}
