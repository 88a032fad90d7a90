//! `p2p id`: who one is.

use std::process::ExitCode;

use clap::Args;

use crate::home::Home;
use crate::options::Common;
use crate::trouble::Trouble;
use crate::wiring;

/// Options of `p2p id`.
#[derive(Debug, Args)]
pub struct Options {
    /// Do not ask the board for the account's name.
    #[arg(long)]
    pub offline: bool,
}

/// Shows the account and the machine's key.
pub async fn id(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let home = Home::open(common.home.as_deref())?;
    let fingerprint = home.identity()?.machine_key().fingerprint();
    let user = if options.offline { None } else { Some(wiring::user(common, &wiring::board_config(common)).await?) };
    if common.json {
        let line = serde_json::json!({ "user": user, "board": common.board.to_string(), "key": fingerprint, "home": home.folder() });
        println!("{line}");
    } else {
        if let Some(user) = user {
            println!("user  {user} on {}", common.board);
        }
        println!("key   {fingerprint}");
        println!("home  {}", home.folder().display());
    }
    Ok(ExitCode::SUCCESS)
}
