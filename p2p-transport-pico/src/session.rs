//! A connection that runs commands: who am I, what is open.

use async_std::future::timeout;
use p2p_proto::board::BoardError;
use p2p_proto::ids::UserName;

use crate::call::Call;
use crate::config::PicoConfig;
use crate::door;
use crate::wire::Wire;

/// What a command printed, each stream at most 1 MiB, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOutput {
    /// Its exit status; 0 also when the server gave none.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Whether it printed no more than this.
    pub whole: bool,
}

/// A logged-in connection to a board, for commands. A future of it that was dropped half-way leaves it unusable: every later
/// call then returns [`BoardError::Closed`].
pub struct Session {
    config: PicoConfig,
    wire: Option<Wire>,
}

impl Session {
    /// Connects and logs in, within [`PicoConfig::connect_timeout`] and the time that people take to answer.
    ///
    /// Cancel-safe: dropping it closes the connection, at the latest at that timeout.
    ///
    /// # Errors
    /// [`BoardError::Unreachable`], [`BoardError::HostKey`] or [`BoardError::Auth`].
    pub async fn connect(config: &PicoConfig) -> Result<Self, BoardError> {
        let wire = door::enter(config).await?;
        Ok(Self { config: config.clone(), wire: Some(wire) })
    }

    /// The name of one's account. pico.sh answers this on another host than its pipe, so it is asked there.
    ///
    /// # Errors
    /// As [`Session::connect`] and [`Session::run`]; [`BoardError::Refused`] when the answer is not a user's name.
    pub async fn user(&mut self) -> Result<UserName, BoardError> {
        let elsewhere = self.config.address.account_server().map(|address| self.config.at(address));
        let output = match elsewhere {
            Some(config) => Box::pin(Self::connect(&config)).await?.run("user").await?,
            None => self.run("user").await?,
        };
        let name = output.stdout.lines().next().unwrap_or_default().trim();
        name.parse().map_err(|_| {
            let said = if name.is_empty() { output.stderr.trim() } else { name };
            BoardError::Refused(format!(
                "the board {} did not say which account this key belongs to (it said {said:?}). Make the key known to the server; on \
                 pico.sh run `ssh pico.sh` once",
                self.config.address
            ))
        })
    }

    /// What is open among one's own topics; [`crate::Listing::parse`] reads it.
    ///
    /// # Errors
    /// As [`Session::run`]; [`BoardError::Refused`] when the server does not tell, or more than is read.
    pub async fn ls(&mut self) -> Result<String, BoardError> {
        let output = self.run("ls").await?;
        if !output.whole {
            return Err(BoardError::Refused(format!(
                "the board {} lists more topics and connections than are read: end some of them",
                self.config.address
            )));
        }
        if output.status == 0 {
            return Ok(output.stdout);
        }
        let said = output.stderr.trim();
        Err(BoardError::Refused(format!(
            "the board {} does not list topics for this key: {said}. Make the key known to the server first",
            self.config.address
        )))
    }

    /// Runs one command of the server, within [`PicoConfig::connect_timeout`].
    ///
    /// # Errors
    /// [`BoardError::Unreachable`] when the connection breaks or takes too long; [`BoardError::Closed`] after that.
    pub async fn run(&mut self, command: &str) -> Result<CommandOutput, BoardError> {
        // Taken out while it is used: a call that is dropped half-way takes the connection with it.
        let wire = self.wire.take().ok_or(BoardError::Closed)?;
        let mut call = Call::new(command);
        let answer = async {
            loop {
                match call.step(&wire) {
                    Ok(None) if call.has_unread() => {}
                    Ok(None) => wire.ready().await,
                    Ok(Some(output)) => return Ok(output),
                    Err(fault) => return Err(door::unreachable(&self.config, &fault)),
                }
            }
        };
        let limit = self.config.connect_timeout;
        let output = timeout(limit, answer).await.unwrap_or_else(|_| {
            Err(door::unreachable(
                &self.config,
                &format!("it did not answer `{command}` within {} s", limit.as_secs_f32()),
            ))
        })?;
        drop(call);
        self.wire = Some(wire);
        Ok(output)
    }
}
